//! `outrigger raft snapshot`: a copy of the whole store in one file, saved from a server, looked at, and gone on with.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::disk::{done, failed, json, refused};
use crate::{
    app::recovery::Disk,
    cli::{Output, admin::AdminArgs, exit},
    store::Archive,
};

/// Largest file that is read and saved: the largest store, twice, with what it remembers.
const MAX_FILE: u64 = 512 * 1024 * 1024;

/// Save the store in a file, look at such a file, have the store go on with it
#[derive(clap::Args, Debug)]
pub(super) struct SnapshotArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Save all of the store, as it is at this moment, in a file for its owner only; not encrypted
    Save(SaveArgs),
    /// Tell what is in a file
    Inspect(InspectArgs),
    /// Have the store go on with what is in a file; the sidecar must not run
    Restore(RestoreArgs),
}

#[derive(clap::Args, Debug)]
struct SaveArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// What the server that is asked has, also without a quorum
    #[arg(long)]
    stale: bool,
    /// The file; one that is there is not touched
    file: PathBuf,
}

#[derive(clap::Args, Debug)]
struct InspectArgs {
    /// The file
    file: PathBuf,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(clap::Args, Debug)]
struct RestoreArgs {
    /// The configuration of the sidecar whose disk takes it
    #[arg(short, long, value_name = "FILE", default_value = "/etc/outrigger/outrigger.yaml")]
    config: PathBuf,
    /// What was written since may be lost; needed if there is a log
    #[arg(long)]
    accept_data_loss: bool,
    /// The file
    file: PathBuf,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(super) fn snapshot(args: &SnapshotArgs) -> ExitCode {
    match &args.action {
        Action::Save(args) => save(args),
        Action::Inspect(args) => inspect(args),
        Action::Restore(args) => restore(args),
    }
}

#[expect(clippy::print_stdout, reason = "what the command says is its output")]
fn save(args: &SaveArgs) -> ExitCode {
    let path = if args.stale { "/v1/raft/snapshot?stale" } else { "/v1/raft/snapshot" };
    let bytes = match args.admin.fetch(path, MAX_FILE) {
        Ok(bytes) => bytes,
        Err(error) => {
            error.tell();
            return error.code();
        }
    };
    // Proved before it is taken for a copy.
    let archive = match Archive::read(&bytes) {
        Ok(archive) => archive,
        Err(error) => {
            return refused(exit::FAILED, &format!("what the sidecar sent is of no use: {error}"), None);
        }
    };
    if let Err(error) = write(&args.file, &bytes) {
        return refused(exit::FAILED, &format!("cannot write {}: {error}", args.file.display()), None);
    }
    println!("saved {}: revision {}, {} keys", args.file.display(), archive.revision, archive.keys);
    ExitCode::SUCCESS
}

#[expect(clippy::print_stdout, reason = "what the command says is its output")]
fn inspect(args: &InspectArgs) -> ExitCode {
    match read(&args.file) {
        Ok(archive) if args.output == Output::Json => println!("{:#}", json(&archive)),
        Ok(archive) => print!("{}", text(&archive)),
        Err(why) => return refused(exit::FAILED, &why, None),
    }
    ExitCode::SUCCESS
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "what the command says is its output")]
fn restore(args: &RestoreArgs) -> ExitCode {
    let archive = match read(&args.file) {
        Ok(archive) => archive,
        Err(why) => return refused(exit::FAILED, &why, None),
    };
    let looked = Disk::of_config(&args.config).and_then(|disk| disk.has_log().map(|has| (disk, has)));
    let (disk, has_log) = match looked {
        Ok(looked) => looked,
        Err(error) => return failed(&error),
    };
    eprint!("{}", text(&archive));
    if has_log && !args.accept_data_loss {
        return refused(
            exit::CONFLICT,
            "nothing was done: there is a log, and what was written since the snapshot would be lost",
            Some("stop whoever writes; then say it again with --accept-data-loss"),
        );
    }
    match disk.restore(&archive) {
        Ok(renewed) if args.output == Output::Json => println!("{:#}", json(&renewed)),
        Ok(renewed) => print!("{}", done(&renewed)),
        Err(error) => return failed(&error),
    }
    ExitCode::SUCCESS
}

fn text(archive: &Archive) -> String {
    format!(
        "mesh        {}\nstore       {}, epoch {}\nlast entry  {} of term {}\nstate       revision {}, {} keys, {} bytes\n\
         digest      {}\n",
        archive.cluster,
        archive.store,
        archive.epoch,
        archive.last_index,
        archive.last_term,
        archive.revision,
        archive.keys,
        archive.bytes,
        archive.digest
    )
}

fn read(file: &Path) -> Result<Archive, String> {
    let mut bytes = Vec::new();
    let opened = File::open(file).and_then(|open| open.take(MAX_FILE + 1).read_to_end(&mut bytes));
    opened.map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("{} is larger than any snapshot", file.display()));
    }
    Archive::read(&bytes).map_err(|error| format!("{}: {error}", file.display()))
}

/// There is a whole file by that name, or none.
fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    let written = open.write_all(bytes).and_then(|()| open.sync_all());
    if written.is_err() {
        // Ours, and of no use. The first error is the one to tell.
        let _ = fs::remove_file(file);
    }
    written
}
