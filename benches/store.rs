//! How fast the store is: sidecars as processes with data on disk, beside etcd where it is installed, under the same load;
//! what it costs the data plane; how soon what is written is everywhere. `cargo bench --bench store` prints the figures;
//! after `--`, `--report docs/benchmarks` writes them there, `--only compare,within,kill,routes,watchers,requests` takes
//! some of them, `--rounds`, `--seconds`, `--kills`, `--news`, `--watchers` say how much,
//! `--outrigger` is another binary than that of this build, and `--test` runs a little of each.
#![expect(clippy::print_stdout, reason = "a bench reports there")]

#[path = "store/etcd.rs"]
mod etcd;
#[path = "store/http.rs"]
mod http;
#[path = "store/load.rs"]
mod load;
#[path = "store/machine.rs"]
mod machine;
#[path = "store/ours.rs"]
mod ours;
#[path = "store/report.rs"]
mod report;
#[path = "store/trials.rs"]
mod trials;

use std::{path::PathBuf, str::FromStr, time::Duration, time::Instant};

use anyhow::{Context as _, Result};

use trials::{Figures, Plan};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_test = arguments.iter().any(|argument| argument == "--test");
    let plan = plan(&arguments, is_test)?;
    if let Some(binary) = value::<PathBuf>(&arguments, "--outrigger")? {
        ours::OTHER.get_or_init(|| binary);
    }
    let load = machine::said("cut", &["-d ", "-f1-3", "/proc/loadavg"]);
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let tell = |what: &str| println!("{:4} s: {what}", begun.elapsed().as_secs());
    let figures = runtime.block_on(Figures::measure(&plan, tell))?;
    let text = report::markdown(&plan, &figures, &load);
    match value::<PathBuf>(&arguments, "--report")?.filter(|_| !is_test) {
        Some(directory) => {
            std::fs::create_dir_all(&directory)?;
            let path = directory.join(format!("store-{}.md", report::today()));
            std::fs::write(&path, text)?;
            println!("wrote {}", path.display());
        }
        None => println!("{text}"),
    }
    println!("{:4} s in all", begun.elapsed().as_secs());
    Ok(())
}

fn plan(arguments: &[String], is_test: bool) -> Result<Plan> {
    let has_etcd = etcd::version().is_some();
    if !has_etcd {
        println!("etcd is not there (Debian: etcd-server): nothing is compared with it");
    }
    let mut plan = if is_test { Plan::short(has_etcd) } else { Plan::full(has_etcd) };
    if let Some(only) = value::<String>(arguments, "--only")? {
        plan.only = only.split(',').map(str::to_owned).collect();
    }
    if !trials::has_wrk() {
        println!("wrk is not there: requests through a sidecar are not measured");
        plan.leave_out_requests();
    }
    plan.rounds = value(arguments, "--rounds")?.unwrap_or(plan.rounds);
    plan.length = value(arguments, "--seconds")?.map_or(plan.length, Duration::from_secs_f64);
    plan.kills = value(arguments, "--kills")?.unwrap_or(plan.kills);
    plan.news = value(arguments, "--news")?.unwrap_or(plan.news);
    plan.watchers = value(arguments, "--watchers")?.unwrap_or(plan.watchers);
    Ok(plan)
}

/// What stands after `name`.
fn value<T: FromStr>(arguments: &[String], name: &str) -> Result<Option<T>> {
    let Some(at) = arguments.iter().position(|argument| argument == name) else { return Ok(None) };
    let text = arguments.get(at + 1).with_context(|| format!("{name} needs a value"))?;
    text.parse().map(Some).ok().with_context(|| format!("{name} {text}"))
}
