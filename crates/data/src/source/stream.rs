//! A data set that is read as it is needed: shards one after another in the seed's order, and a buffer that mixes their rows.
//!
//! Which row comes when is a function of seed, epoch and row counts. So a place in an epoch is found again on row numbers
//! alone, without reading a row, and only those are read that the buffer held.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;

use super::find::{find, relative};
use super::shard::{Samples, Shard};
use super::{Layout, Sample, SourceOptions};
use crate::error::DataError;
use crate::order::{Cursor, Share, batches_of};
use crate::random::{self, Purpose};

/// How a stream is cut and mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamOptions {
    /// Rows among which the next one is drawn (`--shuffle_buffer`).
    pub shuffle_buffer: NonZeroUsize,
    /// This rank's part of each epoch.
    pub share: Share,
}

impl Default for StreamOptions {
    /// Mixes a thousand rows, as `datasets` does, for one rank.
    fn default() -> Self {
        let shuffle_buffer = NonZeroUsize::new(1000).expect("not zero");
        Self { shuffle_buffer, share: Share::WHOLE }
    }
}

/// A data set of which only the rows at hand are in memory.
#[derive(Debug, Clone)]
pub struct Stream {
    dir: PathBuf,
    layout: Layout,
    shards: Vec<CountedShard>,
    options: StreamOptions,
}

#[derive(Debug, Clone)]
struct CountedShard {
    shard: Arc<dyn Shard>,
    n_rows: usize,
    /// Rows that are passed over, because they are held out.
    held_out: BTreeSet<usize>,
}

impl CountedShard {
    fn n_kept(&self) -> usize {
        self.n_rows - self.held_out.len()
    }

    /// The row of the kept one at `place`.
    fn row(&self, place: usize) -> usize {
        let mut row = place;
        for &held_out in &self.held_out {
            if held_out > row {
                break;
            }
            row += 1;
        }
        row
    }
}

impl Stream {
    /// Finds out the layout of a folder or file and counts its rows.
    ///
    /// # Errors
    /// When no layout fits, a shard cannot be read, or there is no row.
    pub fn open(dir: &Path, source: &SourceOptions, options: StreamOptions) -> Result<Self, DataError> {
        let dir = dir.canonicalize().map_err(|source| DataError::Read { path: dir.to_owned(), source })?;
        let found = find(&dir, source)?;
        let count = |shard: Arc<dyn Shard>| {
            let n_rows = shard.count()?;
            Ok(CountedShard { shard, n_rows, held_out: BTreeSet::new() })
        };
        let shards: Vec<CountedShard> = found.shards.into_iter().map(count).collect::<Result<_, _>>()?;
        let stream = Self { dir, layout: found.layout, shards, options };
        if stream.n_rows() == 0 {
            return Err(DataError::Empty { dir: stream.dir });
        }
        Ok(stream)
    }

    /// The folder or file, as an absolute path.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The layout that was found.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The rows of an epoch, of all devices together.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.shards.iter().map(CountedShard::n_kept).sum()
    }

    /// The rows of an epoch that this device reads.
    #[must_use]
    pub fn n_own_rows(&self) -> usize {
        self.share().len()
    }

    /// A hash of what decides the run of a row through training: the shards with their names, lengths and rows, and the
    /// buffer. What the rows hold is not read.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{}\n", self.options.shuffle_buffer).as_bytes());
        for CountedShard { shard, n_rows, .. } in &self.shards {
            let name = relative(shard.path(), Some(&self.dir));
            let len =
                shard.path().metadata().map_or(0, |found| if found.is_file() { found.len() } else { 0 });
            hasher.update(format!("{name:?} {len} {n_rows}\n").as_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// Keeps the first `n_rows` rows in the order of the files (`--max_train_samples`).
    ///
    /// # Errors
    /// [`DataError::TooFewSamples`] if there are not as many.
    pub fn take(mut self, n_rows: NonZeroUsize) -> Result<Self, DataError> {
        let (requested, available) = (n_rows.get(), self.n_rows());
        if requested > available {
            return Err(DataError::TooFewSamples { requested, available });
        }
        let mut n_left = requested;
        for shard in &mut self.shards {
            shard.n_rows = shard.n_rows.min(n_left);
            n_left -= shard.n_rows;
        }
        Ok(self)
    }

    /// Takes out `n_held_out` rows drawn by `seed`, in the order of the draw; one always stays.
    ///
    /// # Errors
    /// If one of them, or a shard on the way to it, cannot be read.
    pub fn hold_out(mut self, n_held_out: usize, seed: u64) -> Result<(Self, Vec<Sample>), DataError> {
        let n_rows = self.n_rows();
        let n_held_out = n_held_out.min(n_rows - 1);
        let mut rng = random::rng(seed, 0, "", Purpose::HeldOut);
        let mut drawn = BTreeSet::new();
        let mut samples = Vec::new();
        while samples.len() < n_held_out && drawn.len() < n_rows {
            let row = random::below(&mut rng, n_rows);
            if !drawn.insert(row) {
                continue;
            }
            let (shard_idx, place) = self.place(row);
            let found = self.shards[shard_idx].shard.samples(place)?.next();
            match found.ok_or_else(|| self.too_short(shard_idx))? {
                Ok(sample) => samples.push((row, sample)),
                // It stays with the others, where it is told.
                Err(DataError::Row { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        for (row, _) in &samples {
            let (shard_idx, place) = self.place(*row);
            self.shards[shard_idx].held_out.insert(place);
        }
        let name = |(row, sample)| Sample { id: row_id(row), ..sample };
        Ok((self, samples.into_iter().map(name).collect()))
    }

    /// The first rows that can be used, in the order of the files.
    ///
    /// # Errors
    /// If one of them cannot be read.
    pub fn first(&self, n_rows: usize) -> Result<Vec<Sample>, DataError> {
        let (mut samples, mut row) = (Vec::new(), 0);
        for shard in &self.shards {
            for sample in shard.shard.samples(0)?.take(shard.n_rows) {
                if samples.len() == n_rows {
                    return Ok(samples);
                }
                match sample {
                    Ok(sample) => samples.push(Sample { id: row_id(row), ..sample }),
                    Err(DataError::Row { .. }) => {}
                    Err(error) => return Err(error),
                }
                row += 1;
            }
        }
        Ok(samples)
    }

    /// Shard and row of a row of the whole, none of which is held out yet.
    fn place(&self, mut row: usize) -> (usize, usize) {
        for (shard_idx, shard) in self.shards.iter().enumerate() {
            if row < shard.n_rows {
                return (shard_idx, row);
            }
            row -= shard.n_rows;
        }
        unreachable!("the row is below the number of rows");
    }

    /// Rows before a shard, held out or not: with them a row's number is its name, whatever the order.
    fn rows_before(&self, shard_idx: usize) -> usize {
        self.shards[..shard_idx].iter().map(|shard| shard.n_rows).sum()
    }

    fn too_short(&self, shard_idx: usize) -> DataError {
        let CountedShard { shard, n_rows, .. } = &self.shards[shard_idx];
        DataError::FewerRows { path: shard.path().to_owned(), expected: *n_rows }
    }

    /// The part of an epoch that this device reads: a stretch, so that it opens no more files than it needs, and as long as
    /// those of all others, so that all come to its end together. The few rows that are left over are others in each epoch.
    fn share(&self) -> Range<usize> {
        let n_own = self.n_rows() / self.options.share.n_ranks;
        let first = n_own * self.options.share.rank;
        first..first + n_own
    }

    /// What is read in an epoch: shards and their kept rows.
    fn segments(&self, seed: u64, epoch: u64) -> Vec<Segment> {
        let mut order: Vec<usize> = (0..self.shards.len()).collect();
        random::shuffle(&mut order, &mut random::rng(seed, epoch, "", Purpose::Order));
        let share = self.share();
        let mut segments = Vec::new();
        let mut first = 0;
        for shard_idx in order {
            let end = first + self.shards[shard_idx].n_kept();
            let (from, to) = (share.start.max(first), share.end.min(end));
            if from < to {
                segments.push(Segment { shard_idx, places: from - first..to - first });
            }
            first = end;
        }
        segments
    }
}

/// A row's number in its data set names it: its id must be unlike that of a million others.
fn row_id(row: usize) -> String {
    format!("row {row}")
}

#[derive(Debug, Clone)]
struct Segment {
    shard_idx: usize,
    /// Of the kept rows.
    places: Range<usize>,
}

/// Which of the rows read comes next: a function of seed and epoch.
struct Mixer {
    rng: ChaCha8Rng,
    n_rows: usize,
    n_taken_in: usize,
    shuffle_buffer: usize,
}

impl Mixer {
    /// The order of an epoch has a generator that lives as long as it; a resumed run draws again what was drawn.
    fn new(seed: u64, epoch: u64, n_rows: usize, shuffle_buffer: usize) -> Self {
        let rng = random::rng(seed, epoch, "rows", Purpose::Order);
        Self { rng, n_rows, n_taken_in: 0, shuffle_buffer }
    }

    /// Fills a buffer, then takes out one of it; `read` gives what stands at a position of what is read.
    fn next<T>(
        &mut self,
        buffer: &mut Vec<T>,
        mut read: impl FnMut(usize) -> Result<T, DataError>,
    ) -> Result<Option<T>, DataError> {
        while buffer.len() < self.shuffle_buffer && self.n_taken_in < self.n_rows {
            buffer.push(read(self.n_taken_in)?);
            self.n_taken_in += 1;
        }
        if buffer.is_empty() {
            return Ok(None);
        }
        let place = random::below(&mut self.rng, buffer.len());
        Ok(Some(buffer.swap_remove(place)))
    }
}

/// Reads the positions of an epoch in order.
struct Reader {
    stream: Arc<Stream>,
    segments: Vec<Segment>,
    /// The next position, and the segment it is in with the place in it.
    position: usize,
    segment_idx: usize,
    place: usize,
    /// The rows of the segment's shard, and which comes next.
    rows: Option<(Samples, usize)>,
}

impl Reader {
    fn new(stream: Arc<Stream>, segments: Vec<Segment>) -> Self {
        let place = segments.first().map_or(0, |segment| segment.places.start);
        Self { stream, segments, position: 0, segment_idx: 0, place, rows: None }
    }

    /// Passes over the positions before this one.
    fn skip_to(&mut self, position: usize) {
        let mut n_skipped = position - self.position;
        self.position = position;
        while n_skipped > 0 {
            let n_left = self.segments[self.segment_idx].places.end - self.place;
            if n_skipped < n_left {
                self.place += n_skipped;
                break;
            }
            n_skipped -= n_left;
            self.next_segment();
        }
    }

    fn next_segment(&mut self) {
        self.segment_idx += 1;
        self.rows = None;
        self.place = self.segments.get(self.segment_idx).map_or(0, |segment| segment.places.start);
    }

    /// The row at the next position: good, or bad by itself.
    fn next(&mut self) -> Result<Result<Sample, DataError>, DataError> {
        let Segment { shard_idx, places } = &self.segments[self.segment_idx];
        let shard = &self.stream.shards[*shard_idx];
        let row = shard.row(self.place);
        let (rows, next) = match &mut self.rows {
            // Rows are skipped in the open file where that is shorter than opening it again.
            Some((rows, next)) if *next <= row && row - *next < 64 => (rows, next),
            _ => {
                let (rows, next) = self.rows.insert((shard.shard.samples(row)?, row));
                (rows, next)
            }
        };
        let mut found = None;
        while *next <= row {
            found = rows.next();
            *next += 1;
        }
        let found = found.ok_or_else(|| self.stream.too_short(*shard_idx))?;
        let number = self.stream.rows_before(*shard_idx) + row;
        let is_last = self.place + 1 == places.end;
        self.position += 1;
        self.place += 1;
        if is_last {
            self.next_segment();
        }
        match found {
            Ok(sample) => Ok(Ok(Sample { id: row_id(number), ..sample })),
            Err(error @ DataError::Row { .. }) => Ok(Err(error)),
            Err(error) => Err(error),
        }
    }
}

/// Where a run stands in a stream: batches, epoch after epoch.
pub(crate) struct StreamCursor {
    stream: Arc<Stream>,
    seed: u64,
    batch_size: NonZeroUsize,
    cursor: Cursor,
    epoch: Option<OpenEpoch>,
}

struct OpenEpoch {
    mixer: Mixer,
    reader: Reader,
    buffer: Vec<Result<Sample, DataError>>,
}

impl StreamCursor {
    pub(crate) fn new(stream: Arc<Stream>, seed: u64, batch_size: NonZeroUsize, start: Cursor) -> Self {
        Self { stream, seed, batch_size, cursor: start, epoch: None }
    }

    /// That of the batch which comes next.
    pub(crate) fn cursor(&self) -> Cursor {
        self.cursor
    }

    fn batches_per_epoch(&self) -> usize {
        batches_of(self.stream.n_own_rows(), self.batch_size)
    }

    /// The rows of the next batch, and the cursor behind it. The good rows come with the bad ones among them.
    ///
    /// # Errors
    /// If a shard cannot be read; there is nothing more then.
    pub(crate) fn next(&mut self) -> Result<(Vec<Result<Sample, DataError>>, Cursor), DataError> {
        if self.epoch.is_none() {
            self.epoch = Some(self.open()?);
        }
        let OpenEpoch { mixer, reader, buffer } = self.epoch.as_mut().expect("opened above");
        let mut batch = Vec::new();
        while batch.len() < self.batch_size.get()
            && let Some(row) = mixer.next(buffer, |_| reader.next())?
        {
            batch.push(row);
        }
        self.cursor = self.cursor.after(self.batches_per_epoch());
        if self.cursor.batch == 0 {
            self.epoch = None;
        }
        Ok((batch, self.cursor))
    }

    /// The epoch as it is before the cursor's batch: draws on positions what was drawn, then reads what the buffer held.
    fn open(&self) -> Result<OpenEpoch, DataError> {
        let Cursor { epoch, batch } = self.cursor;
        let (n_rows, shuffle_buffer) = (self.stream.n_own_rows(), self.stream.options.shuffle_buffer.get());
        let mut mixer = Mixer::new(self.seed, epoch, n_rows, shuffle_buffer);
        let mut positions = Vec::new();
        for _ in 0..batch * self.batch_size.get() {
            mixer.next(&mut positions, Ok)?;
        }
        let segments = self.stream.segments(self.seed, epoch);
        let mut reader = Reader::new(Arc::clone(&self.stream), segments);
        let mut places: Vec<usize> = (0..positions.len()).collect();
        places.sort_by_key(|&place| positions[place]);
        let mut held: Vec<Option<Result<Sample, DataError>>> = Vec::new();
        held.resize_with(positions.len(), || None);
        for place in places {
            reader.skip_to(positions[place]);
            held[place] = Some(reader.next()?);
        }
        reader.skip_to(mixer.n_taken_in);
        Ok(OpenEpoch { mixer, reader, buffer: held.into_iter().flatten().collect() })
    }
}

#[cfg(test)]
mod tests;
