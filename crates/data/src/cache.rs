//! What was computed once, by content: kept in memory, and in a folder that runs share.

mod disk;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use disk::CacheFolder;

/// Separates our keys from any other use of blake3, and from those of another layout of the files.
const CONTEXT: &str = "pyrograph 2026 cache v1";

/// Names a [`Blob`] by everything that decides it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey(blake3::Hash);

impl CacheKey {
    /// The key of what is computed from `inputs`, of which there are always as many for a kind, in this order.
    ///
    /// The version of the program is part of it: another one may round otherwise.
    #[must_use]
    pub fn new(kind: &str, inputs: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        for part in [env!("CARGO_PKG_VERSION").as_bytes(), kind.as_bytes()].iter().chain(inputs) {
            // The length keeps what stands at the end of one part apart from what begins the next.
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        Self(hasher.finalize())
    }

    /// Its 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Numbers of any shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Blob {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Blob {
    /// Numbers in row-major order.
    ///
    /// # Panics
    /// If there are not as many as the shape says.
    #[must_use]
    pub fn new(shape: Vec<usize>, values: Vec<f32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "numbers for the shape {shape:?}");
        Self { shape, values }
    }

    /// The length of each dimension.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The numbers in row-major order.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    fn bytes(&self) -> usize {
        size_of_val(self.values.as_slice())
    }
}

/// How often a [`Cache`] was of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheCounts {
    /// Read from the folder.
    pub read: usize,
    /// Computed, since neither memory nor folder had it.
    pub computed: usize,
}

/// Keeps what was computed, in memory up to a number of bytes and, if it has one, in a folder. Threads may share it.
#[derive(Debug)]
pub struct Cache {
    memory: Mutex<Memory>,
    folder: Option<Arc<CacheFolder>>,
    n_read: AtomicUsize,
    n_computed: AtomicUsize,
}

#[derive(Debug)]
struct Memory {
    kept: HashMap<CacheKey, Arc<Blob>>,
    bytes_left: usize,
}

impl Cache {
    /// An empty one. With no bytes and no folder it keeps nothing.
    #[must_use]
    pub fn new(memory_bytes: usize, folder: Option<Arc<CacheFolder>>) -> Self {
        let memory = Mutex::new(Memory { kept: HashMap::new(), bytes_left: memory_bytes });
        Self { memory, folder, n_read: AtomicUsize::new(0), n_computed: AtomicUsize::new(0) }
    }

    /// What is kept under a key.
    #[must_use]
    pub fn get(&self, key: &CacheKey) -> Option<Arc<Blob>> {
        let kept = self.memory(|memory| memory.kept.get(key).map(Arc::clone));
        kept.or_else(|| {
            let blob = Arc::new(self.folder.as_ref()?.read(key)?);
            self.n_read.fetch_add(1, Ordering::Relaxed);
            self.keep_in_memory(*key, &blob);
            Some(blob)
        })
    }

    /// Whether something seems to be kept under a key; a file in the folder is not read for that.
    #[must_use]
    pub fn may_have(&self, key: &CacheKey) -> bool {
        self.memory(|memory| memory.kept.contains_key(key))
            || self.folder.as_ref().is_some_and(|folder| folder.may_have(key))
    }

    /// What is kept under a key, else what `compute` gives, which is kept from then on.
    pub fn get_or_compute(&self, key: CacheKey, compute: impl FnOnce() -> Blob) -> Arc<Blob> {
        self.get(&key).unwrap_or_else(|| {
            let blob = Arc::new(compute());
            self.n_computed.fetch_add(1, Ordering::Relaxed);
            self.keep_in_memory(key, &blob);
            if let Some(folder) = &self.folder {
                folder.write(&key, &blob);
            }
            blob
        })
    }

    /// What happened since it was made.
    #[must_use]
    pub fn counts(&self) -> CacheCounts {
        CacheCounts {
            read: self.n_read.load(Ordering::Relaxed),
            computed: self.n_computed.load(Ordering::Relaxed),
        }
    }

    fn keep_in_memory(&self, key: CacheKey, blob: &Arc<Blob>) {
        self.memory(|memory| {
            if blob.bytes() <= memory.bytes_left && memory.kept.insert(key, Arc::clone(blob)).is_none() {
                memory.bytes_left -= blob.bytes();
            }
        });
    }

    fn memory<T>(&self, access: impl FnOnce(&mut Memory) -> T) -> T {
        // A thread that panicked elsewhere has left it whole.
        access(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> CacheKey {
        CacheKey::new("test", &[name.as_bytes()])
    }

    /// Two numbers, 8 bytes.
    fn blob() -> Blob {
        Blob::new(vec![1, 2], vec![1.0, f32::MIN_POSITIVE])
    }

    #[test]
    fn what_fits_in_memory_is_computed_once_and_the_rest_each_time() {
        let cache = Cache::new(2 * 8, None);
        for name in ["a", "b", "c", "a", "b", "c"] {
            assert_eq!(*cache.get_or_compute(key(name), blob), blob());
        }
        assert_eq!(cache.counts(), CacheCounts { read: 0, computed: 4 });
        assert!(cache.get(&key("b")).is_some() && cache.get(&key("c")).is_none());
        assert!(cache.may_have(&key("b")) && !cache.may_have(&key("c")));
    }

    #[test]
    fn nothing_is_kept_without_memory_and_folder() {
        let cache = Cache::new(0, None);
        cache.get_or_compute(key("a"), blob);
        assert!(cache.get(&key("a")).is_none());
    }

    #[test]
    fn another_cache_of_the_folder_finds_what_was_computed_and_reads_it_once() {
        let dir = tempfile::tempdir().unwrap();
        let cache = || Cache::new(8, Some(Arc::new(CacheFolder::open(dir.path()))));
        cache().get_or_compute(key("a"), blob);
        let second = cache();
        assert!(second.may_have(&key("a")) && !second.may_have(&key("b")));
        for _ in 0..3 {
            assert_eq!(*second.get_or_compute(key("a"), || unreachable!("it is there")), blob());
        }
        assert_eq!(second.counts(), CacheCounts { read: 1, computed: 0 });
    }

    #[test]
    fn a_key_tells_kinds_and_the_borders_of_its_inputs_apart() {
        let keys = [
            CacheKey::new("a", &[b"bc", b"d"]),
            CacheKey::new("a", &[b"b", b"cd"]),
            CacheKey::new("a", &[b"bc", b"e"]),
            CacheKey::new("ab", &[b"c", b"d"]),
        ];
        for (place, key) in keys.iter().enumerate() {
            assert!(!keys[..place].contains(key), "key {place}");
        }
        assert_eq!(CacheKey::new("a", &[b"bc", b"d"]), keys[0]);
    }
}
