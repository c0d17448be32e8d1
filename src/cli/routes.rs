//! `outrigger routes`: which routes are in force, and those that all sidecars share.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    process::ExitCode,
};

use serde_json::Value;

use super::{
    Output,
    admin::AdminArgs,
    columns::{columns, word},
    shared::{self, RmArgs, Writing, failed, from, left_out},
};
use crate::config::Record;

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
    Put(PutArgs),
    /// Remove a route that was written for all sidecars
    Rm(RmArgs),
}

#[derive(clap::Args, Debug)]
struct LsArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(clap::Args, Debug)]
#[command(
    after_help = "The file is an item of `routes`, as it would stand in the configuration, in YAML or JSON:\n\n  \
                  name: canary\n  match: { path_prefix: /api }\n  split:\n  - { service: api, weight: 90 }\n  \
                  - { service: api-v2, weight: 10 }"
)]
struct PutArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    writing: Writing,
    /// File with the route, `-` for standard input
    #[arg(short, long)]
    file: String,
    /// What it is called, if it does not say so itself
    name: Option<String>,
}

/// Runs the command.
pub(super) fn routes(args: &RoutesArgs) -> ExitCode {
    match &args.action {
        Action::Ls(args) => shared::list(&args.admin, PLACE, args.output, listed),
        Action::Put(args) => put(args),
        Action::Rm(args) => shared::remove(args, PLACE),
    }
}

fn put(args: &PutArgs) -> ExitCode {
    let text = match read(&args.file) {
        Ok(text) => text,
        Err(error) => return failed(&format!("cannot read {}: {error}", args.file)),
    };
    let Some(name) = args.name.clone().or_else(|| Record::name_in(&text)) else {
        return failed("the route has no `name`, and none is given");
    };
    let path = args.writing.path(PLACE, &name);
    args.writing.tell(args.admin.put_text(&path, text))
}

fn read(place: &str) -> io::Result<String> {
    let mut text = String::new();
    let read = match place {
        "-" => io::stdin().take(MAX_TEXT + 1).read_to_string(&mut text),
        file => File::open(Path::new(file))?.take(MAX_TEXT + 1).read_to_string(&mut text),
    };
    if read? as u64 > MAX_TEXT {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "larger than 512 KiB, which no entry may be",
        ));
    }
    Ok(text)
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
/// As much as a key of the store may have.
const MAX_TEXT: u64 = 512 << 10;

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
