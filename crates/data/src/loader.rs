//! Worker threads that decode the next batches while the device computes.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::decode::panic_message;
use crate::encoded::{EncodedImages, Target};
use crate::error::DataError;
use crate::geometry::{Geometry, Size};
use crate::order::{BatchOrder, Cursor};
use crate::source::Dataset;
use crate::transform::{Transform, Turn};

/// How batches are made.
#[derive(Debug, Clone)]
pub struct LoaderOptions {
    /// Decides the order of every epoch.
    pub seed: u64,
    /// Samples per batch; the last batch of an epoch may have fewer.
    pub batch_size: NonZeroUsize,
    /// Threads that decode; 0 decodes in the thread that asks. The batches are the same for any number.
    pub workers: usize,
    /// Finished batches that each worker may hold ready, at least 1.
    pub prefetch: usize,
    /// What is done to each pair of images.
    pub transform: Transform,
    /// The bucket of each sample, if there are any: [`bucket_of_each`](crate::bucket_of_each).
    pub buckets: Option<Arc<[usize]>>,
    /// Target images that need not be decoded, because they were encoded before.
    pub encoded: Option<EncodedImages>,
}

/// One batch in plain memory, `[batch, channels, height, width]`.
#[derive(Debug, Clone, PartialEq)]
pub struct HostBatch {
    /// Target images, or what was encoded from them.
    pub targets: Vec<Target>,
    /// Hints in [0, 1], or -1 where they are to be painted; `[batch, 3, height, width]`.
    pub hint_unit: Vec<f32>,
    /// How each image came to its size.
    pub geometries: Vec<Geometry>,
    /// Places of the samples in the data set.
    pub samples: Vec<usize>,
    /// [`Sample::id`](crate::Sample::id) of each, the key of its random numbers.
    pub ids: Vec<String>,
    /// Width and height of all.
    pub size: Size,
    /// Where to continue after this batch; `batch` is 0 if it was the last of its epoch.
    pub cursor_after: Cursor,
}

/// An endless row of batches from a cursor on, epoch after epoch.
///
/// Worker `i` of `n` makes the batches `i`, `i + n`, ... and hands them over through a channel of its own, so the
/// order does not depend on which thread is faster. Dropping the loader stops the threads after the image that
/// each has in hand; one that hangs in it, on a network drive that is gone, is left behind after a moment.
pub struct Loader {
    maker: BatchMaker,
    cursor: Cursor,
    workers: Vec<Worker>,
    next_worker: usize,
    is_stopped: Arc<AtomicBool>,
}

struct Worker {
    /// `None` once the loader is being dropped: a worker that waits for room in its channel wakes up.
    batches: Option<Receiver<Result<HostBatch, DataError>>>,
    thread: Option<JoinHandle<()>>,
}

/// How long a dropped loader waits for its threads.
const FAREWELL: Duration = Duration::from_secs(5);

impl Loader {
    /// Starts the workers at `start`.
    ///
    /// # Errors
    /// [`DataError::CursorOutOfRange`] if the data set has no such batch, [`DataError::SpawnWorker`].
    pub fn new(dataset: Arc<Dataset>, options: &LoaderOptions, start: Cursor) -> Result<Self, DataError> {
        let order = BatchOrder::new(options.seed, dataset.samples().len(), options.batch_size)
            .within(options.buckets.clone());
        order.check(start)?;
        let is_stopped = Arc::new(AtomicBool::new(false));
        let maker = BatchMaker {
            dataset,
            order,
            transform: options.transform,
            encoded: options.encoded.clone(),
            is_stopped: Arc::clone(&is_stopped),
        };
        // Built first and filled step by step, so that a failed start stops the threads already running.
        let mut loader = Self { maker, cursor: start, workers: Vec::new(), next_worker: 0, is_stopped };
        let mut first = start;
        for index in 0..options.workers {
            let worker = Worker::start(index, loader.maker.clone(), first, options)?;
            loader.workers.push(worker);
            first = loader.maker.order.after(first);
        }
        Ok(loader)
    }

    /// The cursor of the batch that [`Self::next_batch`] gives next.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The number of batches in an epoch.
    #[must_use]
    pub fn batches_per_epoch(&self) -> usize {
        self.maker.order.batches_per_epoch()
    }

    /// The next batch; waits for it if it is not ready.
    ///
    /// # Errors
    /// [`DataError::Row`] if an image of this batch cannot be used, [`DataError::WorkerPanicked`]. The call after
    /// an error gives the batch after.
    pub fn next_batch(&mut self) -> Result<HostBatch, DataError> {
        loop {
            if let Some(batch) = self.next_within(Duration::MAX)? {
                return Ok(batch);
            }
        }
    }

    /// As [`Self::next_batch`], but gives up waiting after `patience`; `None` then, and the same batch next time. Without
    /// workers the batch is made at once, however long that takes.
    ///
    /// # Errors
    /// As [`Self::next_batch`].
    pub fn next_within(&mut self, patience: Duration) -> Result<Option<HostBatch>, DataError> {
        let batch = match self.workers.get(self.next_worker) {
            None => self.maker.make(self.cursor),
            Some(worker) => match worker.batches.as_ref().map(|batches| batches.recv_timeout(patience)) {
                Some(Ok(batch)) => batch,
                Some(Err(RecvTimeoutError::Timeout)) => return Ok(None),
                Some(Err(RecvTimeoutError::Disconnected)) | None => Err(DataError::WorkerStopped),
            },
        };
        self.cursor = self.maker.order.after(self.cursor);
        self.next_worker = (self.next_worker + 1) % self.workers.len().max(1);
        batch.map(Some)
    }

    /// The ids of the samples that the next batch is made of.
    ///
    /// # Errors
    /// [`DataError::CursorOutOfRange`], which [`Self::new`] has excluded.
    pub fn awaited(&mut self) -> Result<Vec<String>, DataError> {
        let samples = self.maker.order.batch(self.cursor)?;
        Ok(samples.iter().map(|&index| self.maker.dataset.samples()[index].id.clone()).collect())
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        for worker in &mut self.workers {
            worker.batches = None;
        }
        let deadline = Instant::now() + FAREWELL;
        for thread in self.workers.iter_mut().filter_map(|worker| worker.thread.take()) {
            while !thread.is_finished() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() {
                // Panics of a batch were caught and handed over; nothing is left to report.
                let _ = thread.join();
            }
        }
    }
}

impl Worker {
    fn start(
        index: usize,
        maker: BatchMaker,
        first: Cursor,
        options: &LoaderOptions,
    ) -> Result<Self, DataError> {
        let (sender, receiver) = sync_channel(options.prefetch.max(1));
        let stride = options.workers;
        let thread = thread::Builder::new()
            .name(format!("loader-{index}"))
            .spawn(move || run_worker(maker, first, stride, &sender))
            .map_err(|source| DataError::SpawnWorker { source })?;
        Ok(Self { batches: Some(receiver), thread: Some(thread) })
    }
}

fn run_worker(
    mut maker: BatchMaker,
    first: Cursor,
    stride: usize,
    batches: &SyncSender<Result<HostBatch, DataError>>,
) {
    let mut cursor = first;
    while !maker.is_stopped.load(Ordering::Relaxed) {
        let batch = catch_unwind(AssertUnwindSafe(|| maker.make(cursor)))
            .unwrap_or_else(|panic| Err(DataError::WorkerPanicked { message: panic_message(&*panic) }));
        if batches.send(batch).is_err() {
            return;
        }
        for _ in 0..stride {
            cursor = maker.order.after(cursor);
        }
    }
}

/// Makes the batch of any cursor.
#[derive(Clone)]
struct BatchMaker {
    dataset: Arc<Dataset>,
    order: BatchOrder,
    transform: Transform,
    encoded: Option<EncodedImages>,
    is_stopped: Arc<AtomicBool>,
}

impl BatchMaker {
    fn make(&mut self, cursor: Cursor) -> Result<HostBatch, DataError> {
        let samples = self.order.batch(cursor)?.to_vec();
        let size = Size::square(self.transform.side);
        // No bucket has more pixels than the square.
        let n_numbers = samples.len() * 3 * size.n_pixels();
        let mut batch = HostBatch {
            targets: Vec::with_capacity(samples.len()),
            hint_unit: Vec::with_capacity(n_numbers),
            geometries: Vec::with_capacity(samples.len()),
            ids: Vec::with_capacity(samples.len()),
            samples,
            size,
            cursor_after: self.order.after(cursor),
        };
        let turn = Turn { seed: self.order.seed(), epoch: cursor.epoch };
        for &index in &batch.samples {
            if self.is_stopped.load(Ordering::Relaxed) {
                return Err(DataError::WorkerStopped);
            }
            let sample = &self.dataset.samples()[index];
            let loaded = self.transform.load_unless_encoded(sample, self.encoded.as_ref(), turn)?;
            // A batch is of one bucket.
            batch.size = loaded.geometry.size;
            batch.targets.push(loaded.target);
            batch.hint_unit.extend(loaded.hint_unit);
            batch.geometries.push(loaded.geometry);
            batch.ids.push(sample.id.clone());
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::buckets::bucket_of_each;
    use crate::cache::{Blob, Cache};
    use crate::circles::{Circles, generate_circles};
    use crate::colors::Palette;
    use crate::geometry::Side;
    use crate::resize::Interpolation;
    use crate::source::Columns;

    fn circles(count: usize) -> (TempDir, Arc<Dataset>) {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("circles");
        let count = NonZeroUsize::new(count).unwrap();
        let (side, palette) = (Side::try_from(16).unwrap(), Palette::Css);
        generate_circles(&Circles { count, side, palette, seed: 0 }, &out).unwrap();
        let dataset = Dataset::open(&out, &Columns::default()).unwrap();
        (dir, Arc::new(dataset))
    }

    fn options(workers: usize) -> LoaderOptions {
        LoaderOptions {
            seed: 11,
            batch_size: NonZeroUsize::new(3).unwrap(),
            workers,
            prefetch: 2,
            transform: Transform::new(Side::try_from(8).unwrap(), Interpolation::Bilinear),
            buckets: None,
            encoded: None,
        }
    }

    fn batches(dataset: &Arc<Dataset>, workers: usize, start: Cursor, count: usize) -> Vec<HostBatch> {
        let mut loader = Loader::new(Arc::clone(dataset), &options(workers), start).unwrap();
        (0..count).map(|_| loader.next_batch().unwrap()).collect()
    }

    #[test]
    fn batches_do_not_depend_on_the_number_of_workers() {
        let (_dir, dataset) = circles(7);
        let inline = batches(&dataset, 0, Cursor::default(), 8);
        assert_eq!(inline.iter().map(|batch| batch.ids.len()).collect::<Vec<_>>(), [3, 3, 1, 3, 3, 1, 3, 3]);
        assert_eq!(inline[2].cursor_after, Cursor { epoch: 1, batch: 0 });
        assert_eq!(inline[2].hint_unit.len(), 3 * 8 * 8);
        for workers in [1, 2, 5] {
            assert_eq!(batches(&dataset, workers, Cursor::default(), 8), inline, "{workers} workers");
        }
    }

    #[test]
    fn who_does_not_wait_gets_the_same_batches_later() {
        let (_dir, dataset) = circles(7);
        let expected = batches(&dataset, 0, Cursor::default(), 8);
        let mut loader = Loader::new(Arc::clone(&dataset), &options(2), Cursor::default()).unwrap();
        for expected in &expected {
            assert_eq!(loader.awaited().unwrap(), expected.ids);
            let found =
                std::iter::repeat_with(|| loader.next_within(Duration::ZERO).unwrap()).flatten().next();
            assert_eq!(found.as_ref(), Some(expected));
        }
    }

    #[test]
    fn loader_continues_at_a_cursor() {
        let (_dir, dataset) = circles(7);
        let all = batches(&dataset, 2, Cursor::default(), 8);
        assert_eq!(batches(&dataset, 2, all[3].cursor_after, 4), all[4..]);
    }

    #[test]
    fn damaged_image_fails_its_batch_and_no_other() {
        let (_dir, dataset) = circles(7);
        let victim = batches(&dataset, 0, Cursor::default(), 1)[0].samples[1];
        fs::write(dataset.samples()[victim].hint.file().unwrap(), "not an image").unwrap();
        for workers in [0, 2] {
            let mut loader = Loader::new(Arc::clone(&dataset), &options(workers), Cursor::default()).unwrap();
            let error = loader.next_batch().unwrap_err();
            assert!(error.to_string().ends_with(&format!("metadata.jsonl:{}", victim + 1)), "{error}");
            let cause = std::error::Error::source(&error).unwrap().to_string();
            let name = dataset.samples()[victim].hint.to_string();
            assert!(cause.contains(&name), "{cause}");
            assert!(loader.next_batch().is_ok());
            assert_eq!(loader.cursor(), Cursor { epoch: 0, batch: 2 });
        }
    }

    #[test]
    fn what_was_encoded_comes_in_place_of_its_image() {
        let (_dir, dataset) = circles(4);
        let cache = Arc::new(Cache::new(1 << 20, None));
        let options =
            LoaderOptions { encoded: Some(EncodedImages::new(Arc::clone(&cache), [0; 32])), ..options(0) };
        let mut loader = Loader::new(dataset, &options, Cursor::default()).unwrap();
        let mut epoch = || [loader.next_batch().unwrap(), loader.next_batch().unwrap()];
        for target in epoch().into_iter().flat_map(|batch| batch.targets) {
            let Target::Pixels { key: Some(key), .. } = target else { panic!("nothing is kept yet") };
            cache.get_or_compute(key, || Blob::new(vec![1], vec![1.0]));
        }
        let targets = epoch().into_iter().flat_map(|batch| batch.targets);
        assert!(targets.into_iter().all(|target| matches!(target, Target::Encoded(_))));
    }

    #[test]
    fn a_batch_is_of_one_bucket_and_nothing_is_dropped() {
        let (_dir, dataset) = circles(20);
        for (place, sample) in dataset.samples().iter().enumerate() {
            let (width, height) = [(48, 32), (32, 48), (40, 40)][place % 3];
            for content in [&sample.image, &sample.hint] {
                image::RgbImage::new(width, height).save(content.file().unwrap()).unwrap();
            }
        }
        let side = |value: usize| Side::try_from(value).unwrap();
        let transform = Transform { buckets: Some(side(8)), ..Transform::new(side(32), Interpolation::Box) };
        let buckets = bucket_of_each(dataset.samples(), &transform);
        let options = LoaderOptions { transform, buckets, ..options(0) };
        let load = |start, workers| {
            Loader::new(Arc::clone(&dataset), &LoaderOptions { workers, ..options.clone() }, start).unwrap()
        };
        let mut loader = load(Cursor::default(), 0);
        assert_eq!(loader.batches_per_epoch(), 3 + 3 + 2);
        let epoch: Vec<HostBatch> = (0..8).map(|_| loader.next_batch().unwrap()).collect();
        assert_eq!(loader.cursor(), Cursor { epoch: 1, batch: 0 });
        let mut seen: Vec<usize> = epoch.iter().flat_map(|batch| batch.samples.clone()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..20).collect::<Vec<_>>());
        for batch in &epoch {
            assert!(batch.geometries.iter().all(|geometry| geometry.size == batch.size));
            assert_eq!(batch.hint_unit.len(), batch.ids.len() * 3 * batch.size.n_pixels());
        }
        let mut continued = load(epoch[2].cursor_after, 2);
        for batch in &epoch[3..] {
            assert_eq!(continued.next_batch().unwrap(), *batch);
        }
        let sizes: std::collections::BTreeSet<Size> = epoch.iter().map(|batch| batch.size).collect();
        assert_eq!(sizes.len(), 3);
    }

    #[test]
    fn dropping_a_loader_ends_its_threads() {
        let (_dir, dataset) = circles(4);
        let loader = Loader::new(Arc::clone(&dataset), &options(3), Cursor::default()).unwrap();
        drop(loader);
        // Every worker held the data set; only ours is left once they have ended.
        assert_eq!(Arc::strong_count(&dataset), 1);
    }

    #[test]
    fn cursor_of_another_data_set_is_refused() {
        let (_dir, dataset) = circles(4);
        let result = Loader::new(dataset, &options(1), Cursor { epoch: 0, batch: 2 });
        assert!(matches!(result.err(), Some(DataError::CursorOutOfRange { batches_per_epoch: 2, .. })));
    }
}
