//! What the kernel says about the process, read at each scrape, and which build it is.

use std::fs;

use super::{
    exposition::{header, sample},
    family::{self, Family},
};

/// Labels of `outrigger_build_info`.
pub(super) const BUILD: [(&str, &str); 4] = [
    ("version", env!("CARGO_PKG_VERSION")),
    ("revision", or_unknown(option_env!("OUTRIGGER_REVISION"))),
    ("rustc", or_unknown(option_env!("OUTRIGGER_RUSTC"))),
    ("tls_provider", "aws-lc-rs"),
];

const fn or_unknown(text: Option<&'static str>) -> &'static str {
    match text {
        Some(text) => text,
        None => "unknown",
    }
}

/// The unit of CPU times in /proc: USER_HZ, which is 100 on every Linux that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// Appends the `process_*` families. What cannot be read is left out.
pub(super) fn render(out: &mut String) {
    let mut put = |family: &Family, value: Option<f64>| {
        if let Some(value) = value {
            header(out, family);
            sample(out, family.name, [], value);
        }
    };
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/stat").unwrap_or_default();
    put(&family::PROCESS_CPU, cpu_seconds(&stat));
    put(&family::PROCESS_RESIDENT, resident_bytes(&status));
    put(&family::PROCESS_OPEN_FDS, open_descriptors());
    put(&family::PROCESS_MAX_FDS, max_descriptors(&limits));
    put(&family::PROCESS_START, start_time(&stat, &kernel));
}

/// Field `number` of /proc/self/stat, counted from 1 as proc(5) does. The second one, the name of the command,
/// may contain spaces and parentheses, so counting starts after it.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((stat_field(stat, 14)? + stat_field(stat, 15)?) / TICKS_PER_SECOND)
}

fn start_time(stat: &str, kernel: &str) -> Option<f64> {
    let boot: f64 = kernel.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + stat_field(stat, 22)? / TICKS_PER_SECOND)
}

fn resident_bytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok().map(|kib: f64| kib * 1024.0)
}

fn open_descriptors() -> Option<f64> {
    // Reading the directory needs a descriptor itself.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

fn max_descriptors(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(f64::INFINITY),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_command_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 1234 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(start_time(stat, "cpu 1\nbtime 1000\n"), Some(1012.34));
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        assert_eq!(cpu_seconds(""), None);
        assert_eq!(resident_bytes("VmRSS:\t  12 kB\n"), Some(12.0 * 1024.0));
        assert_eq!(resident_bytes("VmRSS: many"), None);
        assert_eq!(
            max_descriptors("Max open files            unlimited            4096 files"),
            Some(f64::INFINITY)
        );
        assert_eq!(
            max_descriptors("Max open files            1024                 4096 files"),
            Some(1024.0)
        );
    }
}
