//! `outrigger check`: says everything that is wrong with a configuration, and shows what it means.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::exit;
use crate::config::{self, Bundle, Code, FileSource, Findings, ProcessEnvironment, Severity, Style, Text};

const EXIT_OK: u8 = 0;
/// The arguments make no sense: what clap exits with.
const EXIT_USAGE: u8 = 2;

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
    let style = |terminal: bool| {
        let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if colours { Style::Coloured } else { Style::Plain }
    };
    let mut streams = Streams {
        out: &mut io::stdout().lock(),
        out_style: style(io::stdout().is_terminal()),
        err: &mut io::stderr().lock(),
        err_style: style(io::stderr().is_terminal()),
    };
    // When even the outcome cannot be written (a closed pipe), nobody is left to be told why.
    ExitCode::from(run(args, &mut streams).unwrap_or(exit::FAILED))
}

/// Where the command writes.
struct Streams<'a> {
    out: &'a mut dyn Write,
    out_style: Style,
    err: &'a mut dyn Write,
    err_style: Style,
}

/// The command without the process around it; returns the exit code.
fn run(args: &CheckArgs, streams: &mut Streams<'_>) -> io::Result<u8> {
    if let Some(id) = &args.explain {
        return explain(id, streams);
    }
    let text = match read(&args.file) {
        Ok(text) => text,
        Err(problem) => {
            writeln!(streams.err, "error: cannot read {}: {problem}", args.file.display())?;
            return Ok(exit::FAILED);
        }
    };
    let (bundle, findings) = match config::load(&text, &ProcessEnvironment) {
        Ok((bundle, warnings)) => (Some(bundle), warnings),
        Err(errors) => (None, errors),
    };
    match bundle {
        Some(bundle) if args.print || args.routes => {
            if !findings.is_empty() {
                report(&findings, args.output, streams.err_style, streams.err)?;
            }
            if args.print {
                print_effective(&bundle, args.output, streams.out)?;
            }
            if args.routes {
                streams.out.write_all(config::routes_in_order(&bundle).as_bytes())?;
            }
        }
        _ => report(&findings, args.output, streams.out_style, streams.out)?,
    }
    let refused = if args.strict { findings.items().len() } else { findings.count(Severity::Error) };
    Ok(if refused == 0 { EXIT_OK } else { exit::INVALID })
}

fn explain(id: &str, streams: &mut Streams<'_>) -> io::Result<u8> {
    match Code::find(id) {
        Some(code) => {
            writeln!(streams.out, "{}: {}", code.id(), code.explanation())?;
            Ok(EXIT_OK)
        }
        None => {
            writeln!(streams.err, "error: `{id}` is not the code of a finding; they look like OR201")?;
            Ok(EXIT_USAGE)
        }
    }
}

fn read(file: &Path) -> io::Result<Text> {
    if file == Path::new("-") {
        Text::read("<stdin>", io::stdin().lock())
    } else {
        FileSource::new(file).read()
    }
}

fn report(findings: &Findings, output: Output, style: Style, to: &mut dyn Write) -> io::Result<()> {
    match output {
        Output::Json => writeln!(to, "{:#}", findings.to_json()),
        Output::Text => to.write_all(findings.render_text(style).as_bytes()),
    }
}

fn print_effective(bundle: &Bundle, output: Output, out: &mut dyn Write) -> io::Result<()> {
    match output {
        Output::Json => writeln!(out, "{:#}", config::effective_json(bundle)),
        Output::Text => out.write_all(config::effective_yaml(bundle).as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exit code, standard output and standard error for a file of `config/`, or any other path.
    fn outcome(file: &str, change: impl FnOnce(&mut CheckArgs)) -> (u8, String, String) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(file);
        let mut args = CheckArgs {
            file,
            output: Output::Text,
            print: false,
            routes: false,
            strict: false,
            explain: None,
        };
        change(&mut args);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let (out_style, err_style) = (Style::Plain, Style::Plain);
        let code = run(&args, &mut Streams { out: &mut out, out_style, err: &mut err, err_style }).unwrap();
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn a_valid_file_is_called_ok() {
        let (code, out, err) = outcome("minimal.yaml", |_| {});
        assert!(out.ends_with("minimal.yaml: ok\n"), "{out}");
        assert_eq!((code, err.as_str()), (EXIT_OK, ""));
    }

    #[test]
    fn an_invalid_file_and_an_unreadable_one_have_codes_of_their_own() {
        let (code, out, _) = outcome("../Cargo.toml", |_| {});
        assert!(code == exit::INVALID && out.contains("error[OR"), "{out}");
        let (code, out, err) = outcome("none.yaml", |_| {});
        assert!(code == exit::FAILED && out.is_empty() && err.starts_with("error: cannot read"), "{err}");
    }

    #[test]
    fn findings_are_one_json_document_on_request() {
        let (_, out, _) = outcome("../Cargo.toml", |args| args.output = Output::Json);
        let document: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(document["kind"], "ConfigFindings");
    }

    #[test]
    fn routes_are_printed_in_the_order_in_which_they_are_considered() {
        let (code, out, _) = outcome("reference.yaml", |args| args.routes = true);
        let names: Vec<&str> = out.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(
            (code, names),
            (EXIT_OK, vec!["api", "api", "tunnel", "api", "canary", "moved", "teapot"])
        );
    }

    #[test]
    fn what_is_printed_can_be_checked_again() {
        let (_, out, _) = outcome("reference.yaml", |args| args.print = true);
        assert!(config::parse("printed", &out, &ProcessEnvironment).is_ok());
    }

    #[test]
    fn codes_are_explained() {
        let (code, out, _) = outcome("", |args| args.explain = Some("or201".to_owned()));
        assert!(code == EXIT_OK && out.starts_with("OR201: "), "{out}");
        assert_eq!(outcome("", |args| args.explain = Some("OR999".to_owned())).0, EXIT_USAGE);
    }
}
