//! How the C library's allocator treats what a training step frees.

/// Keeps freed memory for the next step.
///
/// By default each large tensor is a mapping of its own, given back when it is freed; the next step then pays a page
/// fault for every 4 KiB of it again: a tenth of the time of a small model, a third of that of a large one.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_freed_memory() {
    const MIB: libc::c_int = 1 << 20;
    // SAFETY: `mallopt` sets numbers of the allocator under its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1024 * MIB);
        // Never.
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
        libc::mallopt(libc::M_TOP_PAD, 64 * MIB);
    }
}

/// Other allocators are left as they are.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_freed_memory() {}
