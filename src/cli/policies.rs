//! `outrigger policies`: how services are called, and what all sidecars share of that.

use std::process::ExitCode;

use serde_json::Value;

use super::{
    columns::{columns, word, words},
    shared::{self, LsArgs, PutArgs, RmArgs, from, left_out},
};

/// List how services are called, write and remove what all sidecars share of that
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Each key of a policy in the store takes the place of that key of `services.NAME` in the files.\n\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the policy is invalid, 4 the sidecar cannot be reached, 5 no\n\
                  such policy, or no store, 6 it denies access, 7 --cas does not hold, 8 not in time: a write may have happened.\n\n\
                  Examples:\n  outrigger policies ls\n  outrigger policies put api -f api.yaml\n  \
                  echo 'circuit_breaker: { consecutive_errors: 3 }' | outrigger policies put api -f -\n  \
                  outrigger policies rm api"
)]
pub(super) struct PoliciesArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// List services with which of their keys are shared, and policies that are left out
    Ls(LsArgs),
    /// Write how all sidecars call a service
    #[command(
        after_help = "The file has keys of `services.NAME`, as they would stand in the configuration, in YAML or JSON:\n\n  \
                      load_balancer: { policy: least_request }\n  circuit_breaker: { consecutive_errors: 3, open_time: 5s }\n\n\
                      Where a service is and what it speaks (`endpoints`, `dns`, `dns_refresh`, `protocol`, `tls`,\n\
                      `send_proxy_protocol`) only files say. NAME is the service."
    )]
    Put(PutArgs),
    /// Remove what was written for all sidecars
    Rm(RmArgs),
}

/// Runs the command.
pub(super) fn policies(args: &PoliciesArgs) -> ExitCode {
    match &args.action {
        Action::Ls(args) => args.list(PLACE, listed),
        Action::Put(args) => shared::put(args, PLACE),
        Action::Rm(args) => shared::remove(args, PLACE),
    }
}

/// The policies as people read them.
fn listed(told: &Value) -> String {
    let rows: Vec<[String; 5]> = told["items"].as_array().into_iter().flatten().map(row).collect();
    columns(["SERVICE", "FROM", "BALANCER", "SHARED", "STATE"], &rows) + &left_out(told)
}

fn row(item: &Value) -> [String; 5] {
    let shared = item["shared"].as_array().into_iter().flatten().map(word);
    let balancer = word(&item["policy"]["load_balancer"]["policy"]);
    [word(&item["name"]), from(item), balancer, words(shared), word(&item["state"])]
}

const PLACE: &str = "/v1/policies";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn policies_are_listed_with_which_keys_are_shared() {
        let told = json!({
            "items": [
                { "name": "api", "from": "store", "revision": 4, "state": "applied",
                  "policy": { "load_balancer": { "policy": "maglev" } }, "shared": ["load_balancer", "limits"] },
                { "name": "db", "from": "file", "state": "applied", "policy": {}, "shared": null },
                { "name": "far", "from": "store", "revision": 5, "state": "elsewhere" },
            ],
        });
        assert_eq!(
            listed(&told),
            "SERVICE  FROM     BALANCER  SHARED                STATE\n\
             api      store@4  maglev    load_balancer,limits  applied\n\
             db       file     -         -                     applied\n\
             far      store@5  -         -                     elsewhere\n"
        );
    }
}
