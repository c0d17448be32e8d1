//! Judges histories of the replicated store, as `tests/scripts/store.py` writes them: whether they are linearizable, key by
//! key, and whether their revisions are in order. Both checkers have to say so.

mod history;
mod judges;
mod revisions;

use std::{
    env, fs,
    io::BufReader,
    process::ExitCode,
    time::{Duration, Instant},
};

use history::{History, NEVER, Outcome, Timed};
use judges::Verdict;

const USAGE: &str = "usage: linearizability [--limit SECONDS] HISTORY...

Reads JSON lines and checks each key. Exit codes: 0 linearizable, 1 a violation, 2 not a history,
3 undecided within the limit (60 s a key and checker), 4 the checkers disagree.";

/// How a run ended, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Linearizable,
    Undecided,
    Violation,
    Unreadable,
    Disagreement,
}

impl End {
    fn code(self) -> u8 {
        match self {
            Self::Linearizable => 0,
            Self::Violation => 1,
            Self::Unreadable => 2,
            Self::Undecided => 3,
            Self::Disagreement => 4,
        }
    }

    /// What two verdicts make.
    fn of(verdicts: [Verdict; 2]) -> Self {
        use Verdict::{Linearizable, Undecided, Violation};
        match verdicts {
            [Linearizable, Linearizable] => Self::Linearizable,
            [Violation, Linearizable] | [Linearizable, Violation] => Self::Disagreement,
            // The other one has not found out what one knows. That is not enough to pass, and enough to fail.
            [Violation, _] | [_, Violation] => Self::Violation,
            [Undecided, _] | [_, Undecided] => Self::Undecided,
        }
    }
}

fn main() -> ExitCode {
    let mut limit = Duration::from_secs(60);
    let mut paths = Vec::new();
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--limit" {
            let Some(seconds) = arguments.next().and_then(|text| text.parse().ok()) else { return usage() };
            limit = Duration::from_secs(seconds);
        } else if argument.starts_with("--") {
            return usage();
        } else {
            paths.push(argument);
        }
    }
    if paths.is_empty() {
        return usage();
    }
    let ends = paths.iter().map(|path| judge(path, limit));
    ExitCode::from(ends.max().unwrap_or(End::Unreadable).code())
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(End::Unreadable.code())
}

fn judge(path: &str, limit: Duration) -> End {
    let read = fs::File::open(path).map_err(|error| error.to_string());
    let history = match read.and_then(|file| History::read(BufReader::new(file))) {
        Ok(history) => history,
        Err(error) => {
            println!("UNREADABLE {path}: {error}");
            return End::Unreadable;
        }
    };
    println!(
        "{path}: {} ok, {} failed, {} unknown",
        history.count(Outcome::Ok),
        history.count(Outcome::Failed),
        history.count(Outcome::Unknown)
    );
    let mut end = End::Linearizable;
    let mut answered = 0;
    for (key, timed) in history.by_key() {
        answered += timed.iter().filter(|one| one.end != NEVER).count();
        end = end.max(judge_key(&history, key, &timed, limit));
    }
    if answered == 0 {
        println!("UNREADABLE {path}: nothing was answered, so nothing is proved");
        return End::Unreadable;
    }
    let faults = revisions::faults(&history.lines);
    for fault in faults.iter().take(10) {
        println!("VIOLATION revisions: {fault}");
    }
    if !faults.is_empty() {
        end = end.max(End::Violation);
    }
    println!("{end:?} {path}");
    end
}

fn judge_key(history: &History, key: &str, timed: &[Timed], limit: Duration) -> End {
    let began = Instant::now();
    let first = judges::porcupine(timed, limit);
    let between = began.elapsed();
    let second = judges::todc(timed, limit);
    let took = [between, began.elapsed().saturating_sub(between)];
    let unknown = timed.iter().filter(|one| one.end == NEVER).count();
    println!(
        "  {key}: {} operations, {unknown} of them without an answer: porcupine {first:?} ({:.1?}), todc {second:?} ({:.1?})",
        timed.len(),
        took[0],
        took[1]
    );
    if first == Verdict::Violation {
        println!("  the shortest beginning that cannot be, its last operations:");
        let short = judges::shortest(timed, limit);
        let mut lines: Vec<usize> = short.iter().map(|one| one.line).collect();
        lines.sort_unstable();
        for line in lines.iter().rev().take(12).rev() {
            println!("    {line}: {}", history.lines[line - 1].text);
        }
    }
    End::of([first, second])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_have_to_agree_and_to_decide() {
        use Verdict::{Linearizable, Undecided, Violation};
        assert_eq!(End::of([Linearizable, Linearizable]).code(), 0);
        assert_eq!(End::of([Violation, Violation]).code(), 1);
        assert_eq!(End::of([Violation, Undecided]).code(), 1);
        for pair in [[Linearizable, Undecided], [Undecided, Linearizable], [Undecided, Undecided]] {
            assert_eq!(End::of(pair).code(), 3);
        }
        for pair in [[Linearizable, Violation], [Violation, Linearizable]] {
            assert_eq!(End::of(pair).code(), 4);
        }
    }

    #[test]
    fn a_search_that_takes_too_long_is_undecided() {
        // Each of them may be anywhere, none of them explains what was read.
        let puts = (1..=40).map(history::Step::Put);
        let mut timed: Vec<Timed> = puts.map(|step| Timed { step, call: 0, end: NEVER, line: 0 }).collect();
        timed.push(Timed { step: history::Step::Get(99), call: 10, end: 11, line: 0 });
        let limit = Duration::from_millis(50);
        assert_eq!(judges::porcupine(&timed, limit), Verdict::Undecided);
        assert_eq!(judges::todc(&timed, limit), Verdict::Undecided);
    }

    #[test]
    fn lines_that_say_nothing_certain_are_refused() {
        let read = |rest: &str| {
            History::read(format!(r#"{{"client":0,"key":"a","call":5,{rest}}}"#).as_bytes()).map(|_| ())
        };
        assert_eq!(read(r#""op":"put","value":"1","outcome":"ok","return":6"#), Ok(()));
        assert_eq!(read(r#""op":"put","value":"1","outcome":"unknown","return":null"#), Ok(()));
        assert!(read(r#""op":"put","value":"1","outcome":"ok","return":4"#).is_err());
        assert!(read(r#""op":"put","value":"1","outcome":"ok","return":null"#).is_err());
        assert!(read(r#""op":"delete","deleted":null,"outcome":"ok","return":6"#).is_err());
        assert!(read(r#""op":"put","outcome":"ok","return":6"#).is_err());
        assert!(read(r#""op":"swap","value":"1","outcome":"ok","return":6"#).is_err());
    }

    #[test]
    fn what_was_refused_and_reads_without_an_answer_are_left_out() {
        let lines = [
            r#"{"client":0,"key":"a","op":"put","value":"1","outcome":"failed","call":0,"return":1}"#,
            r#"{"client":0,"key":"a","op":"get","value":null,"outcome":"unknown","call":2,"return":null}"#,
            r#"{"client":0,"key":"a","op":"put","value":"2","outcome":"unknown","call":4,"return":5}"#,
            r#"{"client":0,"key":"a","op":"get","value":"1","outcome":"ok","call":6,"return":7}"#,
        ];
        let history = History::read(lines.join("\n").as_bytes()).unwrap();
        let timed = &history.by_key()["a"];
        assert_eq!(timed.iter().map(|one| (one.line, one.end)).collect::<Vec<_>>(), [(3, NEVER), (4, 7)]);
        // A value that was refused is none that may be read.
        assert_eq!(judges::porcupine(timed, Duration::from_secs(5)), Verdict::Violation);
    }
}
