//! Blobs in a folder: one file each, complete and verified, or not there.
//!
//! A file is the mark `pyrocach`, the rank (u32), the dimensions (u64), the numbers (f32) and a checksum, all little
//! endian: BLAKE3 of the key and of everything before. It is written in `incomplete/` and renamed to
//! `ab/abcd...`, its key in hexadecimal; 256 folders keep each one short. Nothing is synced: what a power cut leaves of
//! a file does not have its checksum.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Blob, CacheKey};

const MARK: &[u8; 8] = b"pyrocach";

/// Where files are written before they have their names.
const INCOMPLETE: &str = "incomplete";

/// A file that is older was left by a process that was killed; writing one takes milliseconds.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// A folder of blobs. Processes may share it.
///
/// Nothing that is wrong with it is an error: what cannot be read is not there, and what cannot be written is not
/// kept. Either is warned of once.
#[derive(Debug)]
pub struct CacheFolder {
    dir: PathBuf,
    is_writable: AtomicBool,
    has_met_damage: AtomicBool,
}

impl CacheFolder {
    /// The cache in `dir`, which is made when the first blob is written.
    #[must_use]
    pub fn open(dir: &Path) -> Self {
        let folder = Self {
            dir: dir.to_owned(),
            is_writable: AtomicBool::new(true),
            has_met_damage: AtomicBool::new(false),
        };
        folder.remove_leftovers();
        folder
    }

    /// The blob of a key, if its file is there and undamaged. A damaged one is removed.
    pub(super) fn read(&self, key: &CacheKey) -> Option<Blob> {
        let path = self.path(key);
        let cause = match fs::read(&path) {
            Ok(bytes) => match decode(key, &bytes) {
                Some(blob) => return Some(blob),
                None => "its checksum is wrong".to_owned(),
            },
            // Not even a folder: the first write says so.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return None;
            }
            Err(error) => error.to_string(),
        };
        // If it cannot be removed, it is replaced as soon as its blob is computed again.
        let _ = fs::remove_file(&path);
        if !self.has_met_damage.swap(true, Ordering::Relaxed) {
            let path = path.display();
            tracing::warn!(
                "cached file `{path}` is damaged and computed again ({cause}); further ones silently"
            );
        }
        None
    }

    /// Writes a blob; after a failure no more are written.
    pub(super) fn write(&self, key: &CacheKey, blob: &Blob) {
        if !self.is_writable.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.try_write(key, blob)
            && self.is_writable.swap(false, Ordering::Relaxed)
        {
            let dir = self.dir.display();
            tracing::warn!("the cache `{dir}` cannot be written, what is computed stays in memory ({error})");
        }
    }

    fn try_write(&self, key: &CacheKey, blob: &Blob) -> io::Result<()> {
        let incomplete = self.dir.join(INCOMPLETE);
        fs::create_dir_all(&incomplete)?;
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // As any new file has them, so that several users can share a folder.
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        // Deletes itself if anything below fails.
        let mut file = builder.tempfile_in(&incomplete)?;
        file.write_all(&encode(key, blob))?;
        let path = self.path(key);
        fs::create_dir_all(path.parent().expect("a blob's path has a folder"))?;
        file.persist(&path).map_err(|error| error.error)?;
        Ok(())
    }

    /// Whether there is a file for a key.
    pub(super) fn may_have(&self, key: &CacheKey) -> bool {
        self.path(key).is_file()
    }

    fn path(&self, key: &CacheKey) -> PathBuf {
        let name = key.to_string();
        self.dir.join(&name[..2]).join(name)
    }

    fn remove_leftovers(&self) {
        for entry in fs::read_dir(self.dir.join(INCOMPLETE)).into_iter().flatten().flatten() {
            let age = entry.metadata().and_then(|metadata| metadata.modified()).ok();
            if age.and_then(|modified| modified.elapsed().ok()).is_some_and(|age| age > LEFTOVER_AGE) {
                // Another process may have been faster.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn encode(key: &CacheKey, blob: &Blob) -> Vec<u8> {
    let rank = u32::try_from(blob.shape.len()).expect("a shape has few dimensions");
    let mut bytes = Vec::with_capacity(blob.bytes() + 128);
    bytes.extend_from_slice(MARK);
    bytes.extend_from_slice(&rank.to_le_bytes());
    bytes.extend(blob.shape.iter().flat_map(|&length| (length as u64).to_le_bytes()));
    bytes.extend(blob.values.iter().flat_map(|value| value.to_le_bytes()));
    let checksum = checksum(key, &bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    bytes
}

/// The blob, or `None` if anything in the file is not as it was written under this key.
fn decode(key: &CacheKey, bytes: &[u8]) -> Option<Blob> {
    let (contents, found) = bytes.split_last_chunk::<{ blake3::OUT_LEN }>()?;
    if checksum(key, contents) != *found {
        return None;
    }
    let (rank, mut rest) = contents.strip_prefix(MARK)?.split_first_chunk()?;
    let mut shape = Vec::new();
    for _ in 0..u32::from_le_bytes(*rank) {
        let length;
        (length, rest) = rest.split_first_chunk()?;
        shape.push(usize::try_from(u64::from_le_bytes(*length)).ok()?);
    }
    let (values, remainder) = rest.as_chunks();
    let n_values = shape.iter().try_fold(1, |product: usize, length| product.checked_mul(*length))?;
    let is_complete = remainder.is_empty() && n_values == values.len();
    is_complete.then(|| Blob::new(shape, values.iter().map(|value| f32::from_le_bytes(*value)).collect()))
}

fn checksum(key: &CacheKey, contents: &[u8]) -> blake3::Hash {
    blake3::Hasher::new().update(key.as_bytes()).update(contents).finalize()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::thread;
    use std::time::SystemTime;

    use tempfile::TempDir;

    use super::*;

    fn key(name: &str) -> CacheKey {
        CacheKey::new("test", &[name.as_bytes()])
    }

    fn blob() -> Blob {
        let values = [0.0, -0.0, f32::MIN_POSITIVE / 2.0, f32::MAX, f32::NEG_INFINITY, 1.0 / 3.0];
        Blob::new(vec![1, 2, 3], values.to_vec())
    }

    fn folder() -> (TempDir, CacheFolder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = CacheFolder::open(&dir.path().join("cache"));
        (dir, folder)
    }

    fn bits(blob: &Blob) -> Vec<u32> {
        blob.values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn what_is_written_is_read_bit_for_bit() {
        let (_dir, folder) = folder();
        assert_eq!(folder.read(&key("a")), None);
        for (name, blob) in [("a", blob()), ("none", Blob::new(vec![0, 4], Vec::new()))] {
            folder.write(&key(name), &blob);
            let found = folder.read(&key(name)).unwrap();
            assert_eq!((found.shape(), bits(&found)), (blob.shape(), bits(&blob)));
        }
        assert_eq!(fs::read_dir(folder.dir.join(INCOMPLETE)).unwrap().count(), 0);
    }

    #[test]
    fn a_flipped_bit_anywhere_and_any_other_length_are_found_and_the_file_is_removed() {
        let (_dir, folder) = folder();
        folder.write(&key("a"), &blob());
        let path = folder.path(&key("a"));
        let good = fs::read(&path).unwrap();
        let flipped = (0..good.len()).map(|place| {
            let mut bytes = good.clone();
            bytes[place] ^= 4;
            bytes
        });
        let shortened = (0..good.len()).map(|length| good[..length].to_vec());
        for bytes in flipped.chain(shortened).chain([[good.as_slice(), &[0]].concat()]) {
            fs::write(&path, bytes).unwrap();
            assert_eq!(folder.read(&key("a")), None);
            assert!(!path.exists());
        }
        folder.write(&key("a"), &blob());
        assert_eq!(folder.read(&key("a")), Some(blob()));
    }

    #[test]
    fn a_file_under_the_name_of_another_is_not_used() {
        let (_dir, folder) = folder();
        folder.write(&key("a"), &blob());
        folder.write(&key("b"), &blob());
        fs::copy(folder.path(&key("a")), folder.path(&key("b"))).unwrap();
        assert_eq!(folder.read(&key("b")), None);
    }

    #[test]
    fn numbers_that_do_not_fit_their_shape_are_refused_even_with_a_right_checksum() {
        for shape in [vec![2_u64, 2], vec![u64::MAX, 2], vec![6; 9]] {
            let mut bytes = MARK.to_vec();
            bytes.extend(u32::try_from(shape.len()).unwrap().to_le_bytes());
            bytes.extend(shape.iter().flat_map(|length| length.to_le_bytes()));
            bytes.extend([0; 12]);
            let checksum = checksum(&key("a"), &bytes);
            bytes.extend(checksum.as_bytes());
            assert_eq!(decode(&key("a"), &bytes), None, "{shape:?}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "in the way").unwrap();
        for path in [&file, &file.join("below")] {
            let folder = CacheFolder::open(path);
            folder.write(&key("a"), &blob());
            assert_eq!(folder.read(&key("a")), None);
            assert!(!folder.is_writable.load(Ordering::Relaxed));
        }
        assert_eq!(fs::read(&file).unwrap(), b"in the way");
    }

    #[test]
    fn after_a_failed_write_nothing_more_is_written_but_all_is_read() {
        let (_dir, folder) = folder();
        folder.write(&key("a"), &blob());
        let blocked = folder.path(&key("b"));
        fs::create_dir_all(&blocked).unwrap();
        folder.write(&key("b"), &blob());
        folder.write(&key("c"), &blob());
        assert!(!folder.path(&key("c")).exists());
        assert_eq!(folder.read(&key("a")), Some(blob()));
        assert_eq!(fs::read_dir(folder.dir.join(INCOMPLETE)).unwrap().count(), 0, "nothing half-written");
    }

    #[test]
    fn what_a_killed_process_left_is_removed_after_an_hour() {
        let (_dir, folder) = folder();
        folder.write(&key("a"), &blob());
        let incomplete = folder.dir.join(INCOMPLETE);
        for (name, age) in [("old", 2 * LEFTOVER_AGE), ("new", Duration::ZERO)] {
            let file = File::create(incomplete.join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        }
        let folder = CacheFolder::open(&folder.dir);
        assert!(!incomplete.join("old").exists() && incomplete.join("new").exists());
        assert_eq!(folder.read(&key("a")), Some(blob()));
    }

    #[test]
    fn two_writers_of_the_same_blobs_do_not_disturb_each_other() {
        let (_dir, folder) = folder();
        let large = |name: usize| Blob::new(vec![9_999], vec![f32::from(u8::try_from(name).unwrap()); 9_999]);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let folder = CacheFolder::open(&folder.dir);
                    for name in 0..40 {
                        let key = key(&name.to_string());
                        assert!(folder.read(&key).is_none_or(|found| found == large(name)));
                        folder.write(&key, &large(name));
                        assert_eq!(folder.read(&key), Some(large(name)));
                    }
                    assert!(!folder.has_met_damage.load(Ordering::Relaxed));
                });
            }
        });
    }
}
