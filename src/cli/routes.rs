//! `outrigger routes`: which routes are in force, and those that all sidecars share.

use std::process::ExitCode;

use serde_json::Value;

use super::{
    columns::{columns, word},
    shared::{self, LsArgs, PutArgs, RmArgs, from, left_out},
};

/// List the routes in force, write and remove those of all sidecars
#[derive(clap::Args, Debug)]
#[command(
    after_help = "A route in the store takes the place of the file's route of the same name, on every sidecar.\n\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the route is invalid, 4 the sidecar cannot be reached, 5 no such\n\
                  route, or no store, 6 it denies access, 7 --cas does not hold, 8 not in time: a write may have happened.\n\n\
                  Examples:\n  outrigger routes ls\n  outrigger routes put -f canary.yaml\n  \
                  echo '{ name: api, service: api }' | outrigger routes put -f - --cas 0\n  outrigger routes rm canary"
)]
pub(super) struct RoutesArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// List the routes in the order in which they are tried, and those that are left out
    Ls(LsArgs),
    /// Write a route for all sidecars
    #[command(
        after_help = "The file is an item of `routes`, as it would stand in the configuration, in YAML or JSON:\n\n  \
                      name: canary\n  match: { path_prefix: /api }\n  split:\n  - { service: api, weight: 90 }\n  \
                      - { service: api-v2, weight: 10 }"
    )]
    Put(PutArgs),
    /// Remove a route that was written for all sidecars
    Rm(RmArgs),
}

/// Runs the command.
pub(super) fn routes(args: &RoutesArgs) -> ExitCode {
    match &args.action {
        Action::Ls(args) => args.list(PLACE, listed),
        Action::Put(args) => shared::put(args, PLACE),
        Action::Rm(args) => shared::remove(args, PLACE),
    }
}

/// The routes as people read them.
fn listed(told: &Value) -> String {
    let rows: Vec<[String; 6]> = told["items"].as_array().into_iter().flatten().map(row).collect();
    columns(["NAME", "FROM", "HOST", "PATH", "TO", "HITS"], &rows) + &left_out(told)
}

fn row(item: &Value) -> [String; 6] {
    let hits = item["hits"].as_u64().unwrap_or_default().to_string();
    [word(&item["name"]), from(item), word(&item["host"]), word(&item["path"]), action(&item["action"]), hits]
}

/// `api`, `api 90, api-v2 10`, `redirect 302`, `answer 200`.
fn action(action: &Value) -> String {
    match action["forward"].as_array().map(Vec::as_slice) {
        Some([one]) => word(&one["service"]),
        Some(shares) => {
            let share = |share: &Value| format!("{} {}", word(&share["service"]), share["weight"]);
            shares.iter().map(share).collect::<Vec<_>>().join(", ")
        }
        None => match (&action["redirect"], &action["direct_response"]) {
            (Value::Number(status), _) => format!("redirect {status}"),
            (_, Value::Number(status)) => format!("answer {status}"),
            _ => "-".to_owned(),
        },
    }
}

const PLACE: &str = "/v1/routes";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn routes_are_listed_with_where_they_are_from() {
        let told = json!({
            "items": [
                { "name": "api", "from": "store", "revision": 17, "host": "*", "path": "/api*", "hits": 3,
                  "action": { "forward": [{ "service": "api", "weight": 90 }, { "service": "api-v2", "weight": 10 }] } },
                { "name": "old", "from": "file", "host": "*", "path": "*", "hits": 0,
                  "action": { "redirect": 302 } },
            ],
            "quarantined": [{ "name": "bad", "revision": 9, "reason": "OR201: route sends to nobody" }],
        });
        assert_eq!(
            listed(&told),
            "NAME  FROM      HOST  PATH   TO                 HITS\n\
             api   store@17  *     /api*  api 90, api-v2 10  3\n\
             old   file      *     *      redirect 302       0\n\
             \nleft out:\nNAME  REVISION  REASON\nbad   9         OR201: route sends to nobody\n"
        );
    }
}
