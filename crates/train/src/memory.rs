//! What the process holds in main memory.

use std::fs;

/// What it holds now, where the system tells. A GPU's memory is not in it.
pub(crate) fn current_bytes() -> Option<u64> {
    memory_stats::memory_stats().map(|memory| memory.physical_mem as u64)
}

/// The most it has ever held, on Linux.
pub(crate) fn peak_bytes() -> Option<u64> {
    parse_peak(&fs::read_to_string("/proc/self/status").ok()?)
}

/// Source: proc_pid_status(5), `VmHWM`.
fn parse_peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_from_the_kernels_report() {
        assert_eq!(
            parse_peak("VmPeak:\t  9000 kB\nVmHWM:\t    1234 kB\nVmRSS:\t  10 kB\n"),
            Some(1234 * 1024)
        );
        assert_eq!(parse_peak("VmRSS:\t  10 kB\n"), None);
    }
}
