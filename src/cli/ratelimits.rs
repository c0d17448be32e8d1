//! `outrigger ratelimits`: how many requests a service takes, and what all sidecars share of that.

use std::process::ExitCode;

use serde_json::Value;

use super::{
    columns::{columns, word},
    shared::{self, LsArgs, PutArgs, RmArgs, from, left_out},
};

/// List the rate limits in force, write and remove those of all sidecars
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Rate limits in the store are added to those of the files: all of them must allow a request. Each instance of a\n\
                  service counts for itself.\n\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the limit is invalid, 4 the sidecar cannot be reached, 5 no such\n\
                  limit, or no store, 6 it denies access, 7 --cas does not hold, 8 not in time: a write may have happened.\n\n\
                  Examples:\n  outrigger ratelimits ls\n  \
                  echo '{ rate: 100/s, key: source_address, destination: shop }' | outrigger ratelimits put shop -f -\n  \
                  outrigger ratelimits rm shop"
)]
pub(super) struct RateLimitsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// List the rate limits of this service, those of others, and those that are left out
    Ls(LsArgs),
    /// Write a rate limit for all sidecars
    #[command(
        after_help = "The file is an item of `service.rate_limit`, as it would stand in the configuration, in YAML or JSON, and\n\
                      perhaps `destination`: the services that it is about (`shop`, `batch-*`, `*`). Without one it is about all:\n\n  \
                      name: tenants\n  rate: 100/s\n  key: { header: x-tenant }\n  destination: shop"
    )]
    Put(PutArgs),
    /// Remove a rate limit that was written for all sidecars
    Rm(RmArgs),
}

/// Runs the command.
pub(super) fn rate_limits(args: &RateLimitsArgs) -> ExitCode {
    match &args.action {
        Action::Ls(args) => args.list(PLACE, listed),
        Action::Put(args) => shared::put(args, PLACE),
        Action::Rm(args) => shared::remove(args, PLACE),
    }
}

/// The limits as people read them.
fn listed(told: &Value) -> String {
    let rows: Vec<[String; 6]> = told["items"].as_array().into_iter().flatten().map(row).collect();
    columns(["NAME", "FROM", "RATE", "KEY", "TO", "STATE"], &rows) + &left_out(told)
}

fn row(item: &Value) -> [String; 6] {
    let key = match item["key"]["header"].as_str() {
        Some(_) => format!("header {}", word(&item["key"]["header"])),
        None => word(&item["key"]),
    };
    let [name, rate, to, state] = ["name", "rate", "destination", "state"].map(|name| word(&item[name]));
    [name, from(item), rate, key, to, state]
}

const PLACE: &str = "/v1/ratelimits";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_are_listed_with_whose_requests_they_count() {
        let told = json!({
            "items": [
                { "name": "inbound#1", "from": "file", "rate": "9/s", "key": "route", "destination": "web",
                  "state": "applied" },
                { "name": "tenants", "from": "store", "revision": 4, "rate": "5/m", "key": { "header": "x-tenant" },
                  "destination": "*", "state": "applied" },
                { "name": "far", "from": "store", "revision": 5, "rate": "1/h", "destination": "shop",
                  "state": "elsewhere" },
            ],
            "quarantined": [{ "name": "bad", "revision": 9, "reason": "OR110: no rate" }],
        });
        assert_eq!(
            listed(&told),
            "NAME       FROM     RATE  KEY              TO    STATE\n\
             inbound#1  file     9/s   route            web   applied\n\
             tenants    store@4  5/m   header x-tenant  *     applied\n\
             far        store@5  1/h   -                shop  elsewhere\n\
             \nleft out:\nNAME  REVISION  REASON\nbad   9         OR110: no rate\n"
        );
    }
}
