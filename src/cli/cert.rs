//! `outrigger cert`: what is in certificates, those in a file or those of a running sidecar, and the
//! renewal of the latter.

use std::{
    fmt::Write as _,
    fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde_json::{Value, json};

use super::{Output, admin::AdminArgs, ca::left, exit};
use crate::{
    identity::{
        ca::Stamp,
        inspect::{self, Description},
    },
    rt,
    types::SpiffeId,
};

/// Look at certificates, have a sidecar get new ones
#[derive(clap::Args, Debug)]
pub(super) struct CertArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Show the certificates in a file, or those that a running sidecar presents and trusts, and warn of what others
    /// would refuse
    Show(ShowArgs),
    /// Have a running sidecar get a new certificate, or look at its certificate files now
    Renew(RenewArgs),
}

#[derive(clap::Args, Debug)]
#[command(
    after_help = "Exit codes: 0 done, 1 the sidecar could not, 2 wrong usage, 4 the sidecar cannot be reached, 6 it denies \
                  access."
)]
struct RenewArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(clap::Args, Debug)]
#[command(
    after_help = "Exit codes: 0 shown, 1 cannot be read, 2 wrong usage, 4 the sidecar cannot be reached, 5 no such file, \
                  or the sidecar has none, 6 it denies access, 9 (with --fail) there are warnings."
)]
struct ShowArgs {
    /// File in PEM; `-` reads standard input. Default: asks the running sidecar
    file: Option<PathBuf>,
    #[command(flatten)]
    admin: AdminArgs,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Exit with 9 if there are warnings
    #[arg(long)]
    fail: bool,
}

/// Runs the command.
pub(super) fn cert(args: &CertArgs) -> ExitCode {
    match &args.action {
        Action::Show(args) => show(args),
        Action::Renew(args) => renew(args),
    }
}

#[expect(clippy::print_stdout, reason = "what the command says is its output")]
fn renew(args: &RenewArgs) -> ExitCode {
    match args.admin.post("/v1/certificates/renew") {
        Ok(renewed) => {
            let serial = renewed["serial"].as_str().unwrap_or("-");
            let not_after = renewed["not_after"].as_str().unwrap_or("-");
            let what = if renewed["changed"] == true { "renewed" } else { "unchanged" };
            println!("{what}: {serial} until {not_after}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            error.tell();
            error.code()
        }
    }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "what the command says is its output")]
fn show(args: &ShowArgs) -> ExitCode {
    let (content, whose) = match &args.file {
        Some(file) => match read(file) {
            Ok(content) => (content, file.display().to_string()),
            Err(error) => {
                eprintln!("error: cannot read {}: {error}", file.display());
                let is_missing = error.kind() == std::io::ErrorKind::NotFound;
                return ExitCode::from(if is_missing { exit::NOT_FOUND } else { exit::FAILED });
            }
        },
        None => match args.admin.get("/v1/certificates") {
            Ok(told) => (in_use(&told).into_bytes(), "what the sidecar uses".to_owned()),
            Err(error) => {
                error.tell();
                return error.code();
            }
        },
    };
    let now = Stamp::from(rt::clock::wall());
    let certificates = match inspect::describe(&content, now) {
        Ok(certificates) => certificates,
        Err(error) => {
            eprintln!("error: cannot show {whose}: {error}");
            return ExitCode::from(exit::FAILED);
        }
    };
    let warnings: Vec<String> = args.file.as_deref().and_then(exposed_key).into_iter().collect();
    match args.output {
        Output::Json => println!("{:#}", to_json(&certificates, &warnings, now)),
        Output::Text => print!("{}", text(&certificates, &warnings, now)),
    }
    let is_well = warnings.is_empty() && certificates.iter().all(|one| one.problems.is_empty());
    if args.fail && !is_well { ExitCode::from(exit::UNHEALTHY) } else { ExitCode::SUCCESS }
}

/// The chain that the sidecar presents, then the roots that it trusts.
fn in_use(told: &Value) -> String {
    ["chain_pem", "roots_pem"].iter().filter_map(|part| told[part].as_str()).collect()
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().take(inspect::MAX_FILE).read_to_end(&mut content)?;
    } else {
        fs::File::open(file)?.take(inspect::MAX_FILE).read_to_end(&mut content)?;
    }
    Ok(content)
}

/// A warning if the key beside the certificate can be read by everybody: the same name with `.key`.
fn exposed_key(certificate: &Path) -> Option<String> {
    let key = certificate.with_extension("key");
    let mode = fs::metadata(&key).ok()?.permissions().mode() & 0o777;
    (mode & 0o004 != 0).then(|| format!("everybody can read the key {} (mode {mode:04o})", key.display()))
}

fn to_json(certificates: &[Description], warnings: &[String], now: Stamp) -> Value {
    let item = |one: &Description| {
        json!({
            "identity": one.identity.as_ref().map(SpiffeId::as_str),
            "uris": one.uris,
            "subject": one.subject,
            "issuer": one.issuer,
            "serial": one.serial,
            "key": one.key,
            "ca": one.is_ca,
            "not_before": one.not_before.to_string(),
            "not_after": one.not_after.to_string(),
            "remaining_seconds": one.not_after.since(now).as_secs(),
            "fingerprint_sha256": one.fingerprint.to_string(),
            "warnings": one.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    };
    let items: Vec<_> = certificates.iter().map(item).collect();
    json!({ "apiVersion": "v1", "kind": "CertificateList", "items": items, "warnings": warnings })
}

fn text(certificates: &[Description], warnings: &[String], now: Stamp) -> String {
    let mut text = String::new();
    for (index, one) in certificates.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        let identity = match (&one.identity, &one.uris[..]) {
            (Some(identity), _) => identity.to_string(),
            (None, []) if one.is_ca => "none; it signs others".to_owned(),
            (None, []) => "none".to_owned(),
            (None, uris) => uris.join(", "),
        };
        let lines = [
            ("identity", identity),
            ("subject", one.subject.clone()),
            ("issuer", one.issuer.clone()),
            ("serial", one.serial.clone()),
            ("key", one.key.clone()),
            ("valid", format!("{} to {}", one.not_before, one.not_after)),
            ("", left(one.not_after, now)),
            ("sha256", one.fingerprint.to_string()),
        ];
        for (name, value) in lines {
            let _ = writeln!(text, "{name:<9} {value}");
        }
        for problem in &one.problems {
            let _ = writeln!(text, "WARNING   {problem}");
        }
    }
    for warning in warnings {
        let _ = writeln!(text, "WARNING   {warning}");
    }
    text
}
