//! Asks the linker of a release to lay the functions that every sidecar runs beside each other: ADR 0036. Everything
//! else about the build is Cargo's.
//!
//! `OUTRIGGER_TEXT_ORDER=off` leaves them where they are, for a linker that takes no scripts.

use std::{
    env,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

const ORDER: &str = "build/text.order";
const SWITCH: &str = "OUTRIGGER_TEXT_ORDER";
/// Linkers that know no `SECTIONS`.
const WITHOUT_SCRIPTS: [&str; 3] = ["mold", "wild", "gold"];
/// How flags of rustc name a linker.
const NAMING: [&str; 3] = ["fuse-ld=", "ld-path=", "linker="];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed={ORDER}");
    println!("cargo::rerun-if-env-changed={SWITCH}");
    let target = env::var("TARGET").unwrap_or_default().to_uppercase().replace(['-', '.'], "_");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_{target}_LINKER");
    if !is_wanted() {
        return Ok(());
    }
    if let Some(linker) = linker_without_scripts() {
        println!(
            "cargo::warning={linker} takes no linker scripts: the sidecar will need some MB more memory (ADR 0036)"
        );
        return Ok(());
    }
    let script = write_script(&fs::read_to_string(ORDER)?)?;
    // Joined, and without -Wl: so a compiler takes it as well as a linker, and a comma in the path is harmless.
    println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    Ok(())
}

fn is_wanted() -> bool {
    let is = |variable: &str, value: &str| env::var(variable).is_ok_and(|set| set == value);
    // Debug builds are linked often and measured never.
    is("PROFILE", "release") && is("CARGO_CFG_TARGET_OS", "linux") && !is(SWITCH, "off")
}

/// The linker that was asked for, if it is one of [`WITHOUT_SCRIPTS`]. One that is hidden better says so itself: its error
/// shows the first line of the script.
fn linker_without_scripts() -> Option<&'static str> {
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let named =
        flags.split('\u{1f}').flat_map(|flag| NAMING.iter().filter_map(|naming| flag.split_once(naming)));
    let mut linkers: Vec<String> = named.map(|(_, linker)| linker.to_owned()).collect();
    linkers.extend(env::var("RUSTC_LINKER"));
    let is_asked_for = |without: &&&str| {
        linkers.iter().any(|linker| {
            Path::new(linker).file_name().is_some_and(|name| name.to_string_lossy().contains(**without))
        })
    };
    WITHOUT_SCRIPTS.iter().find(is_asked_for).copied()
}

/// The script adds one section to the linker's own layout, and takes from it what is in the order.
fn write_script(order: &str) -> io::Result<PathBuf> {
    let mut script =
        format!("SECTIONS {{ /* No linker scripts? {SWITCH}=off cargo build ... */ .text.ordered : {{\n");
    for name in order.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        // A function that is marked as cold has a section with a name of its own.
        let _ = writeln!(script, "*(.text.{name} .text.unlikely.{name})");
    }
    script += "} } INSERT BEFORE .text;\n";
    let path = Path::new(&env::var("OUT_DIR").map_err(io::Error::other)?).join("text.ld");
    fs::write(&path, script)?;
    Ok(path)
}
