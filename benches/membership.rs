//! How fast the members learn of each other's death and news, how often they are wrong, and what it costs: the mesh of
//! tests/support/gossip.rs in virtual time. `cargo bench --bench membership` prints the figures, with
//! `-- --report docs/benchmarks` it writes them there, with `-- --test` it runs a little of each and keeps nothing.
#![expect(clippy::print_stdout, reason = "a bench reports there")]

#[allow(dead_code, clippy::unwrap_used, reason = "of the tests, which use more of it")]
#[path = "../tests/support/gossip.rs"]
mod gossip;
#[path = "membership/plot.rs"]
mod plot;
#[path = "membership/report.rs"]
mod report;
#[path = "membership/trials.rs"]
mod trials;

use std::{path::PathBuf, time::Instant};

use trials::{Figures, Plan};

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_test = arguments.iter().any(|argument| argument == "--test");
    let directory = arguments.iter().position(|argument| argument == "--report");
    let directory = directory.and_then(|at| arguments.get(at + 1)).map(PathBuf::from);
    let plan = if is_test { Plan::short() } else { Plan::full() };
    let begun = Instant::now();
    let figures = Figures::measure(&plan, |what| {
        println!("{:4} s: {what}", begun.elapsed().as_secs());
    });
    let text = report::markdown(&plan, &figures);
    match directory.filter(|_| !is_test) {
        Some(directory) => {
            std::fs::create_dir_all(&directory)?;
            std::fs::write(directory.join("membership.md"), text)?;
            std::fs::write(directory.join("membership.svg"), plot::svg(&figures))?;
        }
        None => println!("{text}"),
    }
    println!("{:4} s in all", begun.elapsed().as_secs());
    Ok(())
}
