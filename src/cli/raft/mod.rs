//! `outrigger raft`: how the store of the mesh is, as the sidecar that is asked sees it, and what operators do to it.

mod disk;
mod order;
mod snapshot;

use std::process::ExitCode;

use serde_json::Value;

use super::{
    Output,
    admin::AdminArgs,
    columns::{columns, word},
    shared::LsArgs,
};

/// Tell how the store is: who leads, who votes, how far all are
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Exit codes: 0 told, 2 wrong usage, 4 the sidecar cannot be reached, 5 it has no store, 6 it denies access.\n\n\
                  Examples:\n  outrigger raft status\n  outrigger raft status -o json"
)]
pub(super) struct RaftArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Tell what this node is to the store, and who votes
    Status(StatusArgs),
    /// Tell who has the log, and who may have it, as the leader sees them
    Members(LsArgs),
    /// Give a server the log now
    Add(order::AddArgs),
    /// Take the log and the vote from a server, for ever
    Remove(order::RemoveArgs),
    /// Have another voter lead
    TransferLeader(order::TransferArgs),
    /// Save the store in a file, look at such a file, have the store go on with it
    Snapshot(snapshot::SnapshotArgs),
    /// Tell how far the replica on a disk is; its sidecar must not run
    Inspect(disk::InspectArgs),
    /// Have the store go on from one disk, when most voters are gone for good; its sidecar must not run
    Recover(disk::RecoverArgs),
}

#[derive(clap::Args, Debug)]
struct StatusArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Runs the command.
pub(super) fn raft(args: &RaftArgs) -> ExitCode {
    match &args.action {
        Action::Status(args) => status(args),
        Action::Members(args) => order::members(args),
        Action::Add(args) => order::add(args),
        Action::Remove(args) => order::remove(args),
        Action::TransferLeader(args) => order::transfer(args),
        Action::Snapshot(args) => snapshot::snapshot(args),
        Action::Inspect(args) => disk::inspect(args),
        Action::Recover(args) => disk::recover(args),
    }
}

#[expect(clippy::print_stdout, reason = "what the command says is its output")]
fn status(args: &StatusArgs) -> ExitCode {
    match args.admin.get("/v1/raft") {
        Ok(status) if args.output == Output::Json => println!("{status:#}"),
        Ok(status) => print!("{}", text(&status)),
        Err(error) => {
            error.tell();
            return error.code();
        }
    }
    ExitCode::SUCCESS
}

fn text(status: &Value) -> String {
    let replicas = |kind: &str| status[kind].as_array().cloned().unwrap_or_default();
    let row = |replica: &Value, role: &str| {
        let role = if replica["id"] == status["leader"] { "leader" } else { role };
        let number =
            |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string());
        [
            word(&replica["node"]),
            role.to_owned(),
            word(&replica["address"]),
            word(&replica["zone"]),
            number(&replica["lag"]),
            word(&replica["id"]),
        ]
    };
    let voters = replicas("voters");
    let standbys = replicas("standbys");
    let rows: Vec<_> = voters
        .iter()
        .map(|one| row(one, "voter"))
        .chain(standbys.iter().map(|one| row(one, "standby")))
        .collect();
    let mut told = format!(
        "this node is {} in store {}, epoch {}, term {}, revision {}, {} keys\n",
        word(&status["role"]),
        word(&status["store"]),
        status["epoch"].as_u64().unwrap_or_default(),
        status["term"],
        status["revision"],
        status["keys"],
    );
    if let Some(failure) = status["failure"].as_str() {
        told.push_str(&format!("FAILED  {failure}\n"));
    }
    if !rows.is_empty() {
        told.push_str(&columns(["NODE", "ROLE", "ADDRESS", "ZONE", "LACKS", "ID"], &rows));
    }
    told
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_leader_is_shown_among_the_voters() {
        let replica = |id: &str, node: &str, lag: Option<u64>| json!({ "id": id, "node": node, "address": "10.0.0.1:7947", "zone": null, "lag": lag });
        let status = json!({
            "role": "leader", "store": "00ff", "epoch": 0, "leader": "02", "term": 3, "revision": 7, "keys": 2, "failure": null,
            "voters": [replica("01", "a", Some(0)), replica("02", "b", Some(0))],
            "standbys": [replica("03", "c", None)],
        });
        let expected = "\
this node is leader in store 00ff, epoch 0, term 3, revision 7, 2 keys
NODE  ROLE     ADDRESS        ZONE  LACKS  ID
a     voter    10.0.0.1:7947  -     0      01
b     leader   10.0.0.1:7947  -     0      02
c     standby  10.0.0.1:7947  -     -      03
";
        assert_eq!(text(&status), expected);
    }
}
