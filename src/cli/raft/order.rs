//! `outrigger raft members`, `add`, `remove` and `transfer-leader`: what the leader of the store is asked, through any sidecar.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::{
    Output,
    admin::AdminArgs,
    columns::{columns, word},
    exit,
    shared::LsArgs,
};

/// Give a server the log now: it stands by, and votes when one is missing
#[derive(clap::Args, Debug)]
pub(super) struct AddArgs {
    #[command(flatten)]
    order: OrderArgs,
    /// Its name or id
    node: String,
}

/// Take the log and the vote from a server for ever
#[derive(clap::Args, Debug)]
#[command(
    after_help = "It comes back only as a new node: with its store.data_dir and mesh.data_dir empty. Refused if the voters that are left\n\
                        and answer could not decide, and of the one that leads."
)]
pub(super) struct RemoveArgs {
    #[command(flatten)]
    order: OrderArgs,
    /// Its name or id
    node: String,
    /// Yes, for ever
    #[arg(long)]
    yes: bool,
}

/// Have another voter lead
#[derive(clap::Args, Debug)]
pub(super) struct TransferArgs {
    #[command(flatten)]
    order: OrderArgs,
    /// Its name or id. Default: whoever is furthest on
    node: Option<String>,
}

#[derive(clap::Args, Debug)]
struct OrderArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(super) fn members(args: &LsArgs) -> ExitCode {
    args.list("/v1/raft/members", text)
}

pub(super) fn add(args: &AddArgs) -> ExitCode {
    args.order.give("/v1/raft/add", &json!({ "node": args.node }))
}

#[expect(clippy::print_stderr, reason = "what went wrong is told there")]
pub(super) fn remove(args: &RemoveArgs) -> ExitCode {
    if !args.yes {
        eprintln!(
            "error: nothing was done: `{}` would be removed for ever\nhint: say it again with --yes",
            args.node
        );
        return ExitCode::from(exit::USAGE);
    }
    args.order.give("/v1/raft/remove", &json!({ "node": args.node }))
}

pub(super) fn transfer(args: &TransferArgs) -> ExitCode {
    args.order.give("/v1/raft/transfer-leader", &json!({ "node": args.node }))
}

impl OrderArgs {
    #[expect(clippy::print_stdout, reason = "what the command says is its output")]
    fn give(&self, path: &str, body: &Value) -> ExitCode {
        match self.admin.order(path, body) {
            Ok(done) if self.output == Output::Json => println!("{done:#}"),
            Ok(done) => {
                for step in done["steps"].as_array().into_iter().flatten() {
                    println!("{}", word(step));
                }
            }
            Err(error) => {
                error.tell();
                return error.code();
            }
        }
        ExitCode::SUCCESS
    }
}

fn text(told: &Value) -> String {
    let number = |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string());
    let row = |member: &Value| {
        [
            word(&member["node"]),
            word(&member["role"]),
            word(&member["state"]),
            word(&member["address"]),
            word(&member["zone"]),
            number(&member["lag"]),
            number(&member["heard_ms"]),
            word(&member["id"]),
        ]
    };
    let rows: Vec<_> = told["items"].as_array().into_iter().flatten().map(row).collect();
    columns(["NODE", "ROLE", "STATE", "ADDRESS", "ZONE", "LACKS", "HEARD_MS", "ID"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_who_have_the_log_are_listed_with_what_they_lack() {
        let told = json!({ "items": [
            { "id": "01", "node": "a", "role": "leader", "state": "alive", "address": "10.0.0.1:1", "lag": 0 },
            { "id": "02", "node": "b", "role": "client", "state": "gone", "address": "10.0.0.2:1", "lag": null },
        ] });
        let expected = "\
NODE  ROLE    STATE  ADDRESS     ZONE  LACKS  HEARD_MS  ID
a     leader  alive  10.0.0.1:1  -     0      -         01
b     client  gone   10.0.0.2:1  -     -      -         02
";
        assert_eq!(text(&told), expected);
    }
}
