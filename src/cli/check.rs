//! `outrigger check`: says everything that is wrong with a configuration, and shows what it means.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use crate::{
    config::{self, Bundle, Code, FileSource, Findings, ProcessEnvironment, Severity, Style, Text},
    policy::route::RouteParams,
};

/// The configuration could not be read.
const EXIT_UNREADABLE: u8 = 1;
/// The arguments make no sense.
const EXIT_USAGE: u8 = 2;
/// The configuration is invalid.
const EXIT_INVALID: u8 = 3;

/// Arguments of `outrigger check`.
#[derive(clap::Args, Debug)]
#[command(
    about = "Check a configuration and report every problem with its place",
    after_help = "Exit codes: 0 valid, 1 cannot be read, 2 wrong usage, 3 invalid (with --strict also: warnings).\n\n\
                  Examples:\n  outrigger check outrigger.yaml\n  outrigger check --print - < outrigger.yaml\n  \
                  outrigger check --explain OR201"
)]
pub(super) struct CheckArgs {
    /// File to check; `-` reads standard input
    #[arg(default_value = "/etc/outrigger/outrigger.yaml")]
    file: PathBuf,
    /// How findings (and what --print shows) are written
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Print the configuration in force: defaults filled in, secrets masked
    #[arg(long)]
    print: bool,
    /// Print the routes in the order in which they are considered
    #[arg(long)]
    routes: bool,
    /// Take warnings for errors
    #[arg(long)]
    strict: bool,
    /// Explain a code, as OR201, and do nothing else
    #[arg(long, value_name = "CODE")]
    explain: Option<String>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// For people
    Text,
    /// For machines: one document
    Json,
}

/// Runs the command. Findings go to standard output; with `--print` or `--routes` that belongs to what they
/// show, and findings go to standard error.
#[must_use]
pub(super) fn check(args: &CheckArgs) -> ExitCode {
    let outcome = match &args.explain {
        Some(code) => explain(code, &mut io::stdout().lock()),
        None => run(args),
    };
    // Nobody can be told that nobody listens any more (a closed pipe).
    outcome.unwrap_or(ExitCode::from(EXIT_UNREADABLE))
}

fn explain(id: &str, out: &mut dyn Write) -> io::Result<ExitCode> {
    match Code::find(id) {
        Some(code) => {
            writeln!(out, "{}: {}", code.id(), code.explanation())?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            writeln!(io::stderr(), "error: `{id}` is not a code of a finding; they look like OR201")?;
            Ok(ExitCode::from(EXIT_USAGE))
        }
    }
}

fn run(args: &CheckArgs) -> io::Result<ExitCode> {
    let text = match read(&args.file) {
        Ok(text) => text,
        Err(problem) => {
            writeln!(io::stderr(), "error: cannot read {}: {problem}", args.file.display())?;
            return Ok(ExitCode::from(EXIT_UNREADABLE));
        }
    };
    let (bundle, findings) = match config::load(&text, &ProcessEnvironment) {
        Ok((bundle, warnings)) => (Some(bundle), warnings),
        Err(errors) => (None, errors),
    };
    let document = args.print || args.routes;
    match bundle {
        Some(bundle) if document => {
            report(&findings, args.output, Destination::Stderr)?;
            let mut out = io::stdout().lock();
            if args.print {
                print_effective(&bundle, args.output, &mut out)?;
            }
            if args.routes {
                print_routes(&bundle.directory.routes, &mut out)?;
            }
        }
        _ => report(&findings, args.output, Destination::Stdout)?,
    }
    let refused = if args.strict { findings.items().len() } else { findings.count(Severity::Error) };
    Ok(if refused == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_INVALID) })
}

fn read(file: &Path) -> io::Result<Text> {
    if file == Path::new("-") {
        Text::read("<stdin>", io::stdin().lock())
    } else {
        FileSource::new(file).read()
    }
}

#[derive(Clone, Copy)]
enum Destination {
    Stdout,
    Stderr,
}

fn report(findings: &Findings, output: Output, to: Destination) -> io::Result<()> {
    let (mut out, terminal): (Box<dyn Write>, bool) = match to {
        Destination::Stdout => (Box::new(io::stdout().lock()), io::stdout().is_terminal()),
        Destination::Stderr if findings.is_empty() => return Ok(()),
        Destination::Stderr => (Box::new(io::stderr().lock()), io::stderr().is_terminal()),
    };
    match output {
        Output::Json => writeln!(out, "{:#}", findings.to_json()),
        Output::Text => {
            let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            let style = if colours { Style::Coloured } else { Style::Plain };
            out.write_all(findings.render_text(style).as_bytes())
        }
    }
}

fn print_effective(bundle: &Bundle, output: Output, out: &mut dyn Write) -> io::Result<()> {
    match output {
        Output::Json => writeln!(out, "{:#}", config::effective_json(bundle)),
        Output::Text => out.write_all(config::effective_yaml(bundle).as_bytes()),
    }
}

fn print_routes(routes: &[RouteParams], out: &mut dyn Write) -> io::Result<()> {
    for (place, route) in routes.iter().enumerate() {
        writeln!(out, "{:>4}  {}", place + 1, route.name)?;
    }
    Ok(())
}
