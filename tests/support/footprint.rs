//! What a sidecar holds of the machine: memory and descriptors.

use std::fs;

use super::{Sidecar, eventually, get};

/// Memory that a sidecar may have more than before and still be near its start: the allocator gives pages back
/// late, and a debug build has its own.
const NEAR_KIB: u64 = 32 * 1024;
/// Descriptors that may be open for what tests and the sidecar do at the time.
const NEAR_DESCRIPTORS: usize = 8;

/// Memory and descriptors at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Footprint {
    pub(crate) resident_kib: u64,
    pub(crate) descriptors: usize,
}

impl Footprint {
    /// What `sidecar` holds now.
    pub(crate) fn of(sidecar: &Sidecar) -> Self {
        let process = format!("/proc/{}", sidecar.pid());
        let status = fs::read_to_string(format!("{process}/status")).expect("it runs");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells");
        let digits: String = resident.chars().filter(char::is_ascii_digit).collect();
        let descriptors = fs::read_dir(format!("{process}/fd")).expect("it runs").count();
        Self { resident_kib: digits.parse().expect("a number"), descriptors }
    }

    /// Waits until `sidecar` is near this again, while it goes on serving.
    pub(crate) async fn is_reached_again(&self, sidecar: &Sidecar) {
        eventually(&format!("memory and descriptors are near {self:?}"), async || {
            // Giving memory back happens on the way of new work.
            assert_eq!(get(sidecar.outbound(), "h", "/small").await.status, 200);
            let now = Self::of(sidecar);
            let near = now.resident_kib <= self.resident_kib + NEAR_KIB
                && now.descriptors <= self.descriptors + NEAR_DESCRIPTORS;
            near.then_some(())
        })
        .await;
    }
}
