//! `outrigger ca`: the built-in certificate authority by hand. What it does is in `identity::ca`; here are its words.

mod failure;
mod restore;
mod rotate;
mod status;
mod token;

use std::{
    fmt::Write as _,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use self::failure::Failure;
pub(super) use self::status::left;
use super::exit;
use crate::{
    identity::{
        ca::{
            Authority, CaError, MasterKey, Node, Order, Params, Reason, Serial, check_output, write_public,
        },
        inspect,
    },
    rt,
    types::{SpiffeId, TrustDomain},
};

/// Issue certificates for the mesh, renew its roots, revoke
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The authority is a directory. Its private keys are encrypted with a key that lies elsewhere: in the file\n\
                  of --key-file, in OUTRIGGER_CA_KEY (64 hexadecimal digits), or else beside the directory, as DIR.key.\n\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage, 4 the sidecar cannot be reached, 5 not found, 6 wrong key or no access, 7 not\n\
                  possible now, 8 the store did not answer in time.\n\n\
                  Examples:\n  outrigger ca init --trust-domain mesh.local\n  \
                  outrigger ca issue web --node web-1 --out /etc/outrigger/tls\n  \
                  outrigger ca token create api --ttl 30m\n  outrigger ca rotate\n  \
                  outrigger ca restore --dir /var/lib/outrigger/ca --key-file /root/ca.key"
)]
pub(super) struct CaArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Make an authority with its first root
    Init(InitArgs),
    /// Make a key and sign a certificate for it
    Issue(IssueArgs),
    /// Sign the key of a certificate signing request; what else it asks for is ignored
    Sign(SignArgs),
    /// Tell what the authority has and how it is
    Status(status::StatusArgs),
    /// Go to the next root, one step at a time
    Rotate(rotate::RotateArgs),
    /// Revoke a certificate
    Revoke(RevokeArgs),
    /// Print the lists of revoked certificates, made anew if half of their time is over
    Crl(CrlArgs),
    /// Print the trusted roots
    Bundle(BundleArgs),
    /// Let others join who have no certificate yet
    Token(token::TokenArgs),
    /// Hold an authority whose machine is lost: make its directory out of the copy in the store of the mesh
    Restore(restore::RestoreArgs),
}

/// Where the authority is.
#[derive(clap::Args, Debug)]
struct Place {
    /// Directory of the authority
    #[arg(long, value_name = "DIR", default_value = "/var/lib/outrigger/ca")]
    dir: PathBuf,
    /// File with the key that everything is encrypted with
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

#[derive(clap::Args, Debug)]
struct InitArgs {
    #[command(flatten)]
    place: Place,
    /// Name of the mesh, as in spiffe://NAME/service/web
    #[arg(long, value_name = "NAME")]
    trust_domain: TrustDomain,
    /// Lifetime of certificates, unless `issue` says another
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// Lifetime of roots
    #[arg(long, value_name = "TIME", default_value = "3650d", value_parser = humantime::parse_duration)]
    root_ttl: Duration,
    /// How long a list of revoked certificates is good for
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = humantime::parse_duration)]
    crl_ttl: Duration,
}

/// For whom a certificate is.
#[derive(clap::Args, Debug)]
struct OrderArgs {
    /// Name of the service
    service: String,
    /// Which instance of it; a later certificate for the same instance takes the place of this one
    #[arg(long, value_name = "NAME")]
    node: Option<Node>,
    /// Its lifetime. Default: the authority's
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
}

#[derive(clap::Args, Debug)]
struct IssueArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    order: OrderArgs,
    /// Directory for tls.crt, tls.key, ca.crt and crl.pem
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace what is there, whoever it belongs to
    #[arg(long)]
    force: bool,
}

#[derive(clap::Args, Debug)]
struct SignArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    order: OrderArgs,
    /// The request, in PEM; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    csr: PathBuf,
}

#[derive(clap::Args, Debug)]
struct RevokeArgs {
    #[command(flatten)]
    place: Place,
    /// Serial number of the certificate
    #[arg(required_unless_present = "cert", conflicts_with = "cert")]
    serial: Option<Serial>,
    /// Take the serial number from this certificate
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// unspecified, key-compromise, superseded, cessation-of-operation or privilege-withdrawn
    #[arg(long, default_value = "unspecified")]
    reason: Reason,
}

#[derive(clap::Args, Debug)]
struct CrlArgs {
    #[command(flatten)]
    place: Place,
    /// Write to this file, as a whole, instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(clap::Args, Debug)]
struct BundleArgs {
    #[command(flatten)]
    place: Place,
    /// Write to this file, as a whole, instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the command.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "what the command says is its output")]
pub(super) fn ca(args: &CaArgs) -> ExitCode {
    let mut notes = Vec::new();
    let done = run(&args.action, &mut notes);
    notes.iter().for_each(|note| eprintln!("{note}"));
    match done {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.code())
        }
    }
}

/// The command without the process around it; returns what goes to standard output.
fn run(action: &Action, notes: &mut Vec<String>) -> Result<String, Failure> {
    match action {
        Action::Init(args) => init(args),
        Action::Issue(args) => issue(args),
        Action::Sign(args) => sign(args),
        Action::Status(args) => status::status(args, notes),
        Action::Rotate(args) => rotate::rotate(args),
        Action::Revoke(args) => revoke(args),
        Action::Crl(args) => {
            let crl = args.place.open()?.crl(rt::clock::wall())?;
            printed_or_written(crl, args.out.as_deref())
        }
        Action::Bundle(args) => printed_or_written(args.place.open()?.bundle()?, args.out.as_deref()),
        Action::Token(args) => token::token(args, notes),
        Action::Restore(args) => restore::restore(args),
    }
}

fn init(args: &InitArgs) -> Result<String, Failure> {
    let place = &args.place;
    // Before a key is made that would be of no use.
    if Authority::is_in(&place.dir) {
        return Err(CaError::Exists(place.dir.clone()).into());
    }
    let params = Params {
        trust_domain: args.trust_domain.clone(),
        leaf_ttl: args.ttl,
        root_ttl: args.root_ttl,
        crl_ttl: args.crl_ttl,
    };
    let (key, origin) = match place.key_file() {
        Some(file) if !file.exists() => {
            let key = MasterKey::random()?;
            key.write(&file)?;
            (key, format!("new, in {}", file.display()))
        }
        Some(file) => (MasterKey::read(&file)?, format!("of {}", file.display())),
        None => (place.key()?, format!("of {KEY_VARIABLE}")),
    };
    let now = rt::clock::wall();
    let status = Authority::init(&place.dir, &key, &params, now)?.status(now)?;
    let mut text =
        format!("made a certificate authority for {} in {}\n", args.trust_domain, place.dir.display());
    for root in &status.roots {
        let _ = writeln!(text, "root {}   until {}", root.generation, root.not_after);
        let _ = writeln!(text, "         sha256 {}", root.fingerprint);
    }
    let _ = writeln!(text, "key      {origin}");
    let _ =
        writeln!(text, "Keep a copy of the key away from the directory: without it the authority is lost.");
    Ok(text)
}

fn issue(args: &IssueArgs) -> Result<String, Failure> {
    let authority = args.place.open()?;
    let order = args.order.order(&authority)?;
    let now = rt::clock::wall();
    if !args.force {
        check_output(&args.out, &order.identity, now)?;
    }
    let issued = authority.issue(&order, now)?;
    issued.write(&args.out)?;
    let leaf = &issued.signed.leaf;
    Ok(format!(
        "issued {} for {} until {}\nwrote tls.crt, tls.key, ca.crt and crl.pem to {}\n",
        leaf.serial,
        leaf.identity,
        leaf.not_after,
        args.out.display()
    ))
}

fn sign(args: &SignArgs) -> Result<String, Failure> {
    let request = read(&args.csr)?;
    let request = String::from_utf8(request)
        .map_err(|_| Failure::failed(format!("{} is not in PEM", args.csr.display())))?;
    let authority = args.place.open()?;
    let order = args.order.order(&authority)?;
    Ok(authority.sign(&request, &order, rt::clock::wall())?.certificate)
}

fn revoke(args: &RevokeArgs) -> Result<String, Failure> {
    let authority = args.place.open()?;
    let serial = match (&args.cert, args.serial) {
        (Some(file), _) => serial_of(file)?,
        (None, Some(serial)) => serial,
        (None, None) => return Err(Failure::failed("there is no serial number".to_owned())),
    };
    let now = rt::clock::wall();
    let leaf = authority.revoke(serial, args.reason, now)?;
    let status = authority.status(now)?;
    let at = leaf.revoked.map(|revocation| format!(" at {} ({})", revocation.at, revocation.reason));
    Ok(format!(
        "revoked {} of {}{}\nlists {} have {} certificate(s); hand them out (`outrigger ca crl`)\n",
        leaf.serial,
        leaf.identity,
        at.unwrap_or_default(),
        status.crl_number,
        status.crl_entries
    ))
}

/// The serial number in a certificate. One of another form is not one of ours.
fn serial_of(file: &Path) -> Result<Serial, Failure> {
    let described = inspect::describe(&read(file)?, rt::clock::wall().into());
    let described =
        described.map_err(|error| Failure::failed(format!("cannot read {}: {error}", file.display())))?;
    let serial = described.first().map(|first| first.serial.as_str()).unwrap_or_default();
    serial.parse().map_err(|_| {
        Failure::new(
            exit::NOT_FOUND,
            format!("the certificate in {} is not of this authority", file.display()),
        )
    })
}

fn printed_or_written(text: String, out: Option<&Path>) -> Result<String, Failure> {
    let Some(out) = out else { return Ok(text) };
    write_public(out, &text)?;
    Ok(String::new())
}

/// A file, or standard input, up to the largest size that a certificate file has.
fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut content = Vec::new();
    let result = if file == Path::new("-") {
        std::io::stdin().take(inspect::MAX_FILE).read_to_end(&mut content)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(inspect::MAX_FILE).read_to_end(&mut content))
    };
    match result {
        Ok(_) => Ok(content),
        Err(error) => Err(Failure::failed(format!("cannot read {}: {error}", file.display()))),
    }
}

impl Place {
    fn open(&self) -> Result<Authority, Failure> {
        // Before the key, which is not there either if nobody made an authority.
        if !Authority::is_in(&self.dir) {
            return Err(CaError::Absent(self.dir.clone()).into());
        }
        Ok(Authority::open(&self.dir, &self.key()?)?)
    }

    fn key(&self) -> Result<MasterKey, Failure> {
        match (self.key_file(), std::env::var(KEY_VARIABLE)) {
            (Some(file), _) => Ok(MasterKey::read(&file)?),
            (None, Ok(text)) => Ok(MasterKey::from_hex(&text, KEY_VARIABLE)?),
            (None, Err(_)) => Err(Failure::failed(format!("{KEY_VARIABLE} is not text"))),
        }
    }

    /// The file that the key is in; none if it is in the environment.
    fn key_file(&self) -> Option<PathBuf> {
        if self.key_file.is_some() {
            return self.key_file.clone();
        }
        if std::env::var_os(KEY_VARIABLE).is_some_and(|value| !value.is_empty()) {
            return None;
        }
        // Beside the directory, not in it: a copy of the directory alone gives nothing away.
        let mut name = self.dir.components().as_path().as_os_str().to_owned();
        name.push(".key");
        Some(PathBuf::from(name))
    }
}

impl OrderArgs {
    fn order(&self, authority: &Authority) -> Result<Order, Failure> {
        let identity = identity(authority, &self.service)?;
        Ok(Order { identity, node: self.node.clone(), ttl: self.ttl })
    }
}

fn identity(authority: &Authority, service: &str) -> Result<SpiffeId, Failure> {
    authority.trust_domain().service(service).map_err(|_| {
        let error = format!("`{service}` is no name of a service: 1 to 64 letters, digits, `.`, `-` and `_`");
        Failure::new(exit::USAGE, error)
    })
}

const KEY_VARIABLE: &str = "OUTRIGGER_CA_KEY";
