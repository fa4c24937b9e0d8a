//! Worker threads that decode the next batches while the device computes.

mod plan;

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use self::plan::{Order, Plan, Planner};
use crate::decode::panic_message;
use crate::encoded::{EncodedImages, Target};
use crate::error::DataError;
use crate::geometry::{Geometry, Size};
use crate::order::{Cursor, Share};
use crate::source::{Data, Origin, Sample};
use crate::transform::{Transform, Turn};

/// How batches are made.
#[derive(Debug, Clone)]
pub struct LoaderOptions {
    /// Decides the order of every epoch.
    pub seed: u64,
    /// Samples per batch of this rank; the last batch of an epoch may have fewer.
    pub batch_size: NonZeroUsize,
    /// This rank's part of the batches. Of a stream it is chosen when that is opened.
    pub share: Share,
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
#[derive(Debug, PartialEq)]
pub struct HostBatch {
    /// Target images, or what was encoded from them.
    pub targets: Vec<Target>,
    /// Hints in [0, 1], or -1 where they are to be painted; `[batch, 3, height, width]`.
    pub hint_unit: Vec<f32>,
    /// How each image came to its size.
    pub geometries: Vec<Geometry>,
    /// What the batch is made of. The ids are the keys of random numbers.
    pub samples: Vec<Sample>,
    /// Samples that should be in the batch, but cannot be used. It is smaller for them, maybe empty.
    pub left_out: Vec<LeftOut>,
    /// Width and height of all.
    pub size: Size,
    /// Where to continue after this batch; `batch` is 0 if it was the last of its epoch.
    pub cursor_after: Cursor,
}

/// A sample that cannot be used, and why.
#[derive(Debug)]
pub struct LeftOut {
    /// Its row.
    pub origin: Origin,
    /// What is wrong with it, or with its row.
    pub error: DataError,
}

impl LeftOut {
    fn new(error: DataError) -> Result<Self, DataError> {
        match error {
            DataError::Row { ref at, .. } => Ok(Self { origin: at.clone(), error }),
            error => Err(error),
        }
    }
}

impl PartialEq for LeftOut {
    fn eq(&self, other: &Self) -> bool {
        self.origin == other.origin && format!("{:?}", self.error) == format!("{:?}", other.error)
    }
}

/// An endless row of batches from a cursor on, epoch after epoch.
///
/// One thread says what each batch is made of, and for that reads the rows of a stream. Worker `i` of `n` makes the batches `i`,
/// `i + n`, ... and hands them over through a channel of its own, so the order does not depend on which thread is faster.
/// Dropping the loader stops the threads after the image that each has in hand; one that hangs in it, on a network drive that
/// is gone, is left behind after a moment.
pub struct Loader {
    order: Order,
    maker: BatchMaker,
    cursor: Cursor,
    /// Without workers: what the next batch is made of.
    planner: Option<Planner>,
    workers: Vec<Receiver<Result<HostBatch, DataError>>>,
    threads: Vec<JoinHandle<()>>,
    next_worker: usize,
    is_stopped: Arc<AtomicBool>,
}

/// How long a dropped loader waits for its threads.
const FAREWELL: Duration = Duration::from_secs(5);

/// Batches that a worker may have before it that are not begun.
const AHEAD: usize = 1;

impl Loader {
    /// Starts the workers at `start`.
    ///
    /// # Errors
    /// [`DataError::CursorOutOfRange`] if the data set has no such batch, [`DataError::SpawnWorker`].
    pub fn new(data: impl Into<Data>, options: &LoaderOptions, start: Cursor) -> Result<Self, DataError> {
        let data = data.into();
        let order = Order::new(&data, options);
        start.check(order.batches_per_epoch())?;
        let is_stopped = Arc::new(AtomicBool::new(false));
        let maker = BatchMaker {
            seed: options.seed,
            transform: options.transform,
            encoded: options.encoded.clone(),
            is_stopped: Arc::clone(&is_stopped),
        };
        let planner = Planner::new(data, options, start);
        let n_workers = options.workers;
        // Built first and filled step by step, so that a failed start stops the threads already running.
        let mut loader = Self {
            order,
            maker,
            cursor: start,
            planner: None,
            workers: Vec::new(),
            threads: Vec::new(),
            next_worker: 0,
            is_stopped,
        };
        if n_workers == 0 {
            loader.planner = Some(planner);
            return Ok(loader);
        }
        let mut plans = Vec::new();
        for index in 0..n_workers {
            let (plan_sender, plan_receiver) = sync_channel(AHEAD);
            let (batch_sender, batch_receiver) = sync_channel(options.prefetch.max(1));
            let maker = loader.maker.clone();
            loader.spawn(&format!("loader-{index}"), move || {
                run_worker(&maker, &plan_receiver, &batch_sender);
            })?;
            plans.push(plan_sender);
            loader.workers.push(batch_receiver);
        }
        let is_stopped = Arc::clone(&loader.is_stopped);
        loader.spawn("loader-rows", move || run_planner(planner, &plans, &is_stopped))?;
        Ok(loader)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), DataError> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
        self.threads.push(thread.map_err(|source| DataError::SpawnWorker { source })?);
        Ok(())
    }

    /// The cursor of the batch that [`Self::next_batch`] gives next.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The number of batches in an epoch.
    #[must_use]
    pub fn batches_per_epoch(&self) -> usize {
        self.order.batches_per_epoch()
    }

    /// The next batch; waits for it if it is not ready.
    ///
    /// # Errors
    /// If a shard of a stream cannot be read, [`DataError::WorkerPanicked`]. A sample that cannot be used is no error: it
    /// is [left out](HostBatch::left_out).
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
        let batch = match (&mut self.planner, self.workers.get(self.next_worker)) {
            (Some(planner), _) => planner.next().and_then(|plan| self.maker.make(plan)),
            (None, Some(worker)) => match worker.recv_timeout(patience) {
                Ok(batch) => batch,
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => Err(DataError::WorkerStopped),
            },
            (None, None) => Err(DataError::WorkerStopped),
        };
        self.cursor = self.cursor.after(self.batches_per_epoch());
        self.next_worker = (self.next_worker + 1) % self.workers.len().max(1);
        batch.map(Some)
    }

    /// What the next batch is made of: the ids of its samples or, in a stream, its place.
    ///
    /// # Errors
    /// [`DataError::CursorOutOfRange`], which [`Self::new`] has excluded.
    pub fn awaited(&mut self) -> Result<Vec<String>, DataError> {
        match &mut self.order {
            Order::Listed { dataset, order } => {
                let samples = order.batch(self.cursor)?;
                Ok(samples.iter().map(|&index| dataset.samples()[index].id.clone()).collect())
            }
            Order::Streamed { .. } => {
                let Cursor { epoch, batch } = self.cursor;
                Ok(vec![format!("batch {batch} of epoch {epoch}")])
            }
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        // Who waits for room in a channel wakes up.
        self.workers.clear();
        let deadline = Instant::now() + FAREWELL;
        for thread in self.threads.drain(..) {
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

fn run_planner(
    mut planner: Planner,
    workers: &[SyncSender<Result<Plan, DataError>>],
    is_stopped: &AtomicBool,
) {
    for worker in workers.iter().cycle() {
        if is_stopped.load(Ordering::Relaxed) {
            return;
        }
        let plan = caught(|| planner.next());
        let is_last = plan.is_err();
        if worker.send(plan).is_err() || is_last {
            return;
        }
    }
}

fn run_worker(
    maker: &BatchMaker,
    plans: &Receiver<Result<Plan, DataError>>,
    batches: &SyncSender<Result<HostBatch, DataError>>,
) {
    for plan in plans {
        let batch = plan.and_then(|plan| caught(|| maker.make(plan)));
        if maker.is_stopped.load(Ordering::Relaxed) || batches.send(batch).is_err() {
            return;
        }
    }
}

fn caught<T>(make: impl FnOnce() -> Result<T, DataError>) -> Result<T, DataError> {
    catch_unwind(AssertUnwindSafe(make))
        .unwrap_or_else(|panic| Err(DataError::WorkerPanicked { message: panic_message(&*panic) }))
}

/// Decodes what a batch is made of.
#[derive(Clone)]
struct BatchMaker {
    seed: u64,
    transform: Transform,
    encoded: Option<EncodedImages>,
    is_stopped: Arc<AtomicBool>,
}

impl BatchMaker {
    fn make(&self, plan: Plan) -> Result<HostBatch, DataError> {
        let size = Size::square(self.transform.side);
        let n_samples = plan.rows.len();
        let mut batch = HostBatch {
            targets: Vec::with_capacity(n_samples),
            // No bucket has more pixels than the square.
            hint_unit: Vec::with_capacity(n_samples * 3 * size.n_pixels()),
            geometries: Vec::with_capacity(n_samples),
            samples: Vec::with_capacity(n_samples),
            left_out: Vec::new(),
            size,
            cursor_after: plan.cursor_after,
        };
        let turn = Turn { seed: self.seed, epoch: plan.epoch };
        let mut size_of_all = plan.size;
        for row in plan.rows {
            if self.is_stopped.load(Ordering::Relaxed) {
                return Err(DataError::WorkerStopped);
            }
            let loaded = row.and_then(|sample| {
                let loaded = self.transform.load_unless_encoded(&sample, self.encoded.as_ref(), turn)?;
                // The picture may be another one than when its bucket was chosen.
                if *size_of_all.get_or_insert(loaded.geometry.size) != loaded.geometry.size {
                    let source = DataError::Changed { path: sample.image.to_string().into() };
                    return Err(DataError::Row { at: sample.origin, source: Box::new(source) });
                }
                Ok((sample, loaded))
            });
            match loaded {
                Ok((sample, loaded)) => {
                    batch.size = loaded.geometry.size;
                    batch.targets.push(loaded.target);
                    batch.hint_unit.extend(loaded.hint_unit);
                    batch.geometries.push(loaded.geometry);
                    batch.samples.push(sample);
                }
                Err(error) => batch.left_out.push(LeftOut::new(error)?),
            }
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
    use crate::source::{Columns, Dataset};

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
            share: Share::WHOLE,
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
        assert_eq!(
            inline.iter().map(|batch| batch.samples.len()).collect::<Vec<_>>(),
            [3, 3, 1, 3, 3, 1, 3, 3]
        );
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
            let ids: Vec<String> = expected.samples.iter().map(|sample| sample.id.clone()).collect();
            assert_eq!(loader.awaited().unwrap(), ids);
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
    fn damaged_image_costs_its_sample_and_no_other() {
        let (_dir, dataset) = circles(7);
        let whole = batches(&dataset, 0, Cursor::default(), 3);
        let victim = whole[0].samples[1].clone();
        fs::write(victim.hint.file().unwrap(), "not an image").unwrap();
        for workers in [0, 2] {
            let damaged = batches(&dataset, workers, Cursor::default(), 3);
            let ids =
                |batch: &HostBatch| batch.samples.iter().map(|sample| sample.id.clone()).collect::<Vec<_>>();
            assert_eq!(ids(&damaged[0]), [&ids(&whole[0])[..1], &ids(&whole[0])[2..]].concat());
            assert_eq!((damaged[0].targets.len(), damaged[0].hint_unit.len()), (2, 2 * 3 * 8 * 8));
            assert_eq!(damaged[1..], whole[1..]);
            let [LeftOut { origin, error }] = &damaged[0].left_out[..] else { panic!("one is left out") };
            assert_eq!(*origin, victim.origin);
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.contains(&victim.hint.to_string()), "{cause}");
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
        let mut seen: Vec<usize> =
            epoch.iter().flat_map(|batch| &batch.samples).map(|sample| sample.origin.row).collect();
        seen.sort_unstable();
        assert_eq!(seen, (1..=20).collect::<Vec<_>>());
        for batch in &epoch {
            assert!(batch.geometries.iter().all(|geometry| geometry.size == batch.size));
            assert_eq!(batch.hint_unit.len(), batch.samples.len() * 3 * batch.size.n_pixels());
        }
        let mut continued = load(epoch[2].cursor_after, 2);
        for batch in &epoch[3..] {
            assert_eq!(continued.next_batch().unwrap(), *batch);
        }
        let sizes: std::collections::BTreeSet<Size> = epoch.iter().map(|batch| batch.size).collect();
        assert_eq!(sizes.len(), 3);
    }

    #[test]
    fn a_picture_that_has_another_shape_than_when_its_bucket_was_chosen_is_left_out() {
        let (_dir, dataset) = circles(4);
        let side = |value: usize| Side::try_from(value).unwrap();
        let transform = Transform { buckets: Some(side(8)), ..Transform::new(side(32), Interpolation::Box) };
        let buckets = bucket_of_each(dataset.samples(), &transform);
        let batch_size = NonZeroUsize::new(4).unwrap();
        let options = LoaderOptions { transform, buckets, batch_size, ..options(0) };
        let mut loader = Loader::new(Arc::clone(&dataset), &options, Cursor::default()).unwrap();
        let order: Vec<usize> =
            loader.next_batch().unwrap().samples.iter().map(|sample| sample.origin.row).collect();

        // The first of the next batch must not decide for the others.
        let changed = &dataset.samples()[order[0] - 1];
        for content in [&changed.image, &changed.hint] {
            image::RgbImage::new(48, 32).save(content.file().unwrap()).unwrap();
        }
        let mut loader = Loader::new(Arc::clone(&dataset), &options, Cursor::default()).unwrap();
        let batch = loader.next_batch().unwrap();
        let left: Vec<usize> = batch.samples.iter().map(|sample| sample.origin.row).collect();
        assert_eq!((left.as_slice(), batch.size), (&order[1..], Size::square(side(32))));
        assert_eq!(batch.left_out.len(), 1);
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
