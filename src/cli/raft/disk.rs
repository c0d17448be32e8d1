//! `outrigger raft inspect` and `recover`: the disk of a server whose sidecar does not run.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use crate::{
    app::recovery::{self, Disk, DiskError, Found, Other},
    cli::{Output, columns::columns, exit},
    store::{Position, Renewed, StoreKey, StoreKeys},
};

/// Tell how far the replica on a disk is
#[derive(clap::Args, Debug)]
pub(super) struct InspectArgs {
    /// The configuration of the sidecar whose disk it is
    #[arg(short, long, value_name = "FILE", default_value = "/etc/outrigger/outrigger.yaml")]
    config: PathBuf,
    /// The directory itself (`store.data_dir`), or a copy of it, without a configuration
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    data_dir: Option<PathBuf>,
    /// File with a key that its records are encrypted with (`store.encryption_key`)
    #[arg(long, value_name = "FILE", requires = "data_dir")]
    key_file: Vec<PathBuf>,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Have the store go on from the disk of one server, when most of its voters are gone for good
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The sidecar must not run. What only the other servers had is lost; so look at all disks that are left with\n\
                  `outrigger raft inspect`, and take the one with the greatest last term, then the greatest last entry.\n\
                  Without --accept-data-loss nothing is done but to look.\n\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the configuration is invalid, 5 there is no log,\n\
                  7 refused: a quorum may be alive, another server is further on, or the loss was not accepted.\n\n\
                  Examples:\n  outrigger raft recover -c /etc/outrigger/outrigger.yaml\n  \
                  outrigger raft recover -c /etc/outrigger/outrigger.yaml --accept-data-loss"
)]
pub(super) struct RecoverArgs {
    /// The configuration of the sidecar whose disk it is
    #[arg(short, long, value_name = "FILE", default_value = "/etc/outrigger/outrigger.yaml")]
    config: PathBuf,
    /// What only the other servers had may be lost
    #[arg(long)]
    accept_data_loss: bool,
    /// A voter, by name or id, that is gone for good whatever answers at its address
    #[arg(long, value_name = "NODE")]
    gone: Vec<String>,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Longest file that holds a key.
const MAX_KEY: u64 = 1024;

#[expect(clippy::print_stdout, reason = "what the command says is its output")]
pub(super) fn inspect(args: &InspectArgs) -> ExitCode {
    let position = match &args.data_dir {
        Some(directory) => match keys(&args.key_file) {
            Ok(keys) => recovery::position(directory, &keys),
            Err(why) => return refused(exit::FAILED, &why, None),
        },
        None => Disk::of_config(&args.config).and_then(|disk| disk.position()),
    };
    match position {
        Ok(position) if args.output == Output::Json => println!("{:#}", json(&position)),
        Ok(position) => print!("{}", text(&position)),
        Err(error) => return failed(&error),
    }
    ExitCode::SUCCESS
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "what the command says is its output")]
pub(super) fn recover(args: &RecoverArgs) -> ExitCode {
    let looked = Disk::of_config(&args.config).and_then(|disk| {
        let position = disk.position()?;
        let others = disk.others(&position, &args.gone)?;
        Ok((disk, position, others))
    });
    let (disk, position, others) = match looked {
        Ok(looked) => looked,
        Err(error) => return failed(&error),
    };
    eprint!("{}\n{}", text(&position), seats(&disk, &position, &others));
    if let Err(why) = may_go_on(&position, &others) {
        return refused(exit::CONFLICT, &why.0, Some(why.1));
    }
    if !args.accept_data_loss {
        return refused(
            exit::CONFLICT,
            "nothing was done: what only the other servers had would be lost",
            Some(
                "look at the disks that are left (outrigger raft inspect); then say it again with --accept-data-loss on the \
                  server that is furthest on",
            ),
        );
    }
    match disk.recover() {
        Ok(renewed) if args.output == Output::Json => println!("{:#}", json(&renewed)),
        Ok(renewed) => print!("{}", done(&renewed)),
        Err(error) => return failed(&error),
    }
    ExitCode::SUCCESS
}

/// Why not, and what helps.
fn may_go_on(position: &Position, others: &[Other]) -> Result<(), (String, &'static str)> {
    let is_left = |other: &&Other| match &other.found {
        Found::There(there) => there.is_of(position.store.as_deref()),
        Found::Somebody(_) => true,
        Found::AnotherNode | Found::Nobody(_) | Found::Gone => false,
    };
    let left = others.iter().filter(is_left).count() + 1;
    let quorum = position.voters.len() / 2 + 1;
    if !position.voters.is_empty() && left >= quorum {
        return Err((
            format!(
                "{left} of {} voters may be alive, this one counted, and {quorum} decide: start this sidecar",
                position.voters.len()
            ),
            "if what answers there is none of the old voters any more, name them with --gone",
        ));
    }
    let further = others.iter().find(|other| {
        matches!(&other.found, Found::There(there) if there.is_of(position.store.as_deref()) && there.last_log > position.last_index)
    });
    match further {
        Some(other) => Err((
            format!("{} is further on, and alive: it has the later entries", other.seat.node),
            "stop it and recover there; if it is of no use, name it with --gone",
        )),
        None => Ok(()),
    }
}

fn seats(disk: &Disk, position: &Position, others: &[Other]) -> String {
    let own = disk.node().1;
    let rows: Vec<[String; 4]> = position
        .voters
        .iter()
        .map(|seat| {
            let other = others.iter().find(|other| other.seat.number == seat.number);
            let found = match other.map(|other| &other.found) {
                _ if seat.number == own => "this disk".to_owned(),
                Some(Found::There(there)) => {
                    format!("alive: last entry {}, revision {}", there.last_log, there.revision)
                }
                Some(Found::Somebody(what)) => what.clone(),
                Some(Found::AnotherNode) => "gone: another node is there".to_owned(),
                Some(Found::Nobody(why)) => format!("silent ({why})"),
                Some(Found::Gone) | None => "gone, as you say".to_owned(),
            };
            [seat.node.clone(), seat.address.to_string(), seat.id.clone(), found]
        })
        .collect();
    columns(["VOTER", "ADDRESS", "ID", "FOUND"], &rows)
}

fn text(position: &Position) -> String {
    let or = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let epoch = position.epoch.map_or_else(|| "-".to_owned(), |epoch| epoch.to_string());
    let rows = [
        ["mesh".to_owned(), or(&position.cluster)],
        ["node".to_owned(), or(&position.id)],
        ["store".to_owned(), format!("{}, epoch {epoch}", or(&position.store))],
        ["last entry".to_owned(), format!("{} of term {}", position.last_index, position.last_term)],
        ["decided".to_owned(), format!("up to {}, as far as it knows", position.committed)],
        ["snapshot".to_owned(), format!("up to {}", position.snapshot)],
        ["vote".to_owned(), format!("term {}, for {}", position.vote_term, or(&position.voted_for))],
        [
            "state".to_owned(),
            format!("revision {}, {} keys, {} bytes", position.revision, position.keys, position.bytes),
        ],
        ["digest".to_owned(), position.digest.clone()],
    ];
    rows.iter().map(|[name, value]| format!("{name:<11} {value}\n")).collect()
}

pub(super) fn done(renewed: &Renewed) -> String {
    let kept = renewed.kept.as_deref().map_or_else(|| "-".to_owned(), |kept| kept.display().to_string());
    format!(
        "the store {} goes on in epoch {}, after revision {}, with {} keys\n\
         the log of before is kept: {kept}\n\
         next: start this sidecar. On each other server: if its disk is new or empty, start it; if it has its old data, start \
         it, and start it once more when its log says so\n",
        renewed.store, renewed.epoch, renewed.revision, renewed.keys
    )
}

pub(super) fn json(told: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(told).unwrap_or_default()
}

fn keys(files: &[PathBuf]) -> Result<StoreKeys, String> {
    let keys = files.iter().map(|file| key(file)).collect::<Result<Vec<_>, _>>()?;
    // What was written before it was encrypted is read as well: nothing is written here.
    Ok(StoreKeys { keys, reads_plain: true })
}

fn key(file: &Path) -> Result<StoreKey, String> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = std::fs::File::open(file).and_then(|open| open.take(MAX_KEY).read_to_string(&mut text));
    read.map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    StoreKey::parse(&text).ok_or_else(|| format!("{} holds no key of 64 hexadecimal digits", file.display()))
}

pub(super) fn failed(error: &DiskError) -> ExitCode {
    let (code, hint) = match error {
        DiskError::Invalid(_) => (exit::INVALID, None),
        DiskError::Log { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            (exit::NOT_FOUND, None)
        }
        DiskError::Log { source, .. } if source.kind() == std::io::ErrorKind::ResourceBusy => {
            (exit::CONFLICT, Some("stop the sidecar first; while it runs, ask it: outrigger raft status"))
        }
        DiskError::Unreadable { .. }
        | DiskError::NoServer
        | DiskError::Nobody(_)
        | DiskError::Home(_)
        | DiskError::Log { .. }
        | DiskError::Asking(_) => (exit::FAILED, None),
    };
    refused(code, &error.to_string(), hint)
}

#[expect(clippy::print_stderr, reason = "what went wrong is told there")]
pub(super) fn refused(code: u8, what: &str, hint: Option<&str>) -> ExitCode {
    eprintln!("error: {}", what.trim_end());
    if let Some(hint) = hint {
        eprintln!("hint: {hint}");
    }
    ExitCode::from(code)
}
