use std::fs;
use std::num::NonZeroUsize;

use tempfile::TempDir;

use super::*;
use crate::content::Content;
use crate::source::Origin;
use crate::source::shard::Listed;

fn options(shuffle_buffer: usize, rank: usize, n_ranks: usize) -> StreamOptions {
    let [shuffle_buffer, n_ranks] = [shuffle_buffer, n_ranks].map(|count| NonZeroUsize::new(count).unwrap());
    StreamOptions { shuffle_buffer, share: Share { rank, n_ranks } }
}

/// Shards of so many rows, whose captions are their numbers.
fn stream(lengths: &[usize], options: StreamOptions) -> Stream {
    let mut row = 0;
    let shards = lengths.iter().enumerate().map(|(shard_idx, &n_rows)| {
        let path: Box<Path> = Path::new(&format!("shard-{shard_idx}")).into();
        let sample = |row: usize| Sample {
            image: Content::File("a.png".into()),
            hint: Content::File("b.png".into()),
            captions: vec![row.to_string()],
            id: String::new(),
            origin: Origin { file: path.as_ref().into(), row },
        };
        let samples = (row..row + n_rows).map(sample).collect();
        row += n_rows;
        let shard: Arc<dyn Shard> = Arc::new(Listed { path, samples });
        CountedShard { shard, n_rows, held_out: BTreeSet::new() }
    });
    Stream { dir: "data".into(), layout: Layout::Table, shards: shards.collect(), options }
}

/// The captions of so many batches from a cursor on.
fn batches(
    stream: &Stream,
    seed: u64,
    batch_size: usize,
    start: Cursor,
    count: usize,
) -> Vec<(Vec<usize>, Cursor)> {
    let batch_size = NonZeroUsize::new(batch_size).unwrap();
    let mut cursor = StreamCursor::new(Arc::new(stream.clone()), seed, batch_size, start);
    let numbers = |rows: Vec<Result<Sample, DataError>>| {
        rows.into_iter().map(|row| row.unwrap().captions[0].parse().unwrap()).collect()
    };
    (0..count).map(|_| cursor.next().map(|(rows, after)| (numbers(rows), after)).unwrap()).collect()
}

fn epoch(stream: &Stream, seed: u64, epoch: u64) -> Vec<usize> {
    let n_batches = stream.n_own_rows().div_ceil(3);
    batches(stream, seed, 3, Cursor { epoch, batch: 0 }, n_batches)
        .into_iter()
        .flat_map(|(rows, _)| rows)
        .collect()
}

fn sorted(mut rows: Vec<usize>) -> Vec<usize> {
    rows.sort_unstable();
    rows
}

#[test]
fn every_epoch_gives_every_row_once_in_an_order_of_its_own() {
    for (lengths, buffer) in [(&[7, 1, 0, 12][..], 4), (&[20], 1), (&[5, 5, 5, 5], 1000)] {
        let stream = stream(lengths, options(buffer, 0, 1));
        let first = epoch(&stream, 1, 0);
        assert_eq!(sorted(first.clone()), (0..20).collect::<Vec<_>>());
        assert_eq!(epoch(&stream, 1, 0), first);
        if buffer > 1 {
            assert_ne!(epoch(&stream, 1, 1), first);
            assert_ne!(epoch(&stream, 2, 0), first);
        }
    }
}

#[test]
fn the_order_of_a_stream_never_changes() {
    let stream = stream(&[4, 3, 3], options(4, 0, 1));
    assert_eq!(epoch(&stream, 42, 3), [2, 7, 3, 8, 4, 1, 6, 5, 0, 9]);
}

#[test]
fn a_stream_continues_at_any_batch_as_if_it_had_not_stopped() {
    for (lengths, buffer) in [(&[9, 14, 2, 8][..], 6), (&[33], 1), (&[3, 30], 64)] {
        let (stream, _) = stream(lengths, options(buffer, 0, 1)).hold_out(3, 5).unwrap();
        let all = batches(&stream, 9, 4, Cursor::default(), 20);
        assert_eq!(all[7].1, Cursor { epoch: 1, batch: 0 }, "30 rows are 8 batches");
        for start in 1..all.len() {
            let rest = batches(&stream, 9, 4, all[start - 1].1, all.len() - start);
            assert!(rest == all[start..], "from batch {start} on with a buffer of {buffer}");
        }
    }
}

#[test]
fn ranks_share_an_epoch_and_no_row_and_end_together() {
    for n_ranks in [1, 2, 3, 8] {
        let ranks: Vec<Stream> =
            (0..n_ranks).map(|rank| stream(&[10, 1, 20, 6], options(5, rank, n_ranks))).collect();
        let mut left_over = std::collections::BTreeSet::new();
        for number in 0..3 {
            let rows: Vec<Vec<usize>> = ranks.iter().map(|rank| epoch(rank, 4, number)).collect();
            assert!(rows.iter().all(|rows| rows.len() == 37 / n_ranks));
            let mut all = sorted(rows.concat());
            all.dedup();
            assert_eq!(all.len(), 37 / n_ranks * n_ranks);
            left_over.extend((0..37).filter(|row| !all.contains(row)));
        }
        assert!(left_over.len() > 37 % n_ranks || 37 % n_ranks == 0, "not the same in each epoch");
    }
    // One rank reads only the shards that its stretch touches.
    let half = stream(&[10; 8], options(1, 0, 2));
    assert_eq!(half.segments(0, 0).len(), 4);
}

#[test]
fn rows_held_out_are_not_trained_on_and_the_first_rows_are_taken() {
    let whole = stream(&[10, 5, 15], options(8, 0, 1));
    let (rest, held_out) = whole.clone().hold_out(4, 3).unwrap();
    let number = |sample: &Sample| sample.captions[0].parse().unwrap();
    let held_out: Vec<usize> = held_out.iter().map(number).collect();
    assert_eq!(sorted([epoch(&rest, 0, 0), held_out.clone()].concat()), (0..30).collect::<Vec<_>>());
    assert_eq!(whole.clone().hold_out(4, 3).unwrap().1.iter().map(number).collect::<Vec<_>>(), held_out);
    assert_eq!(whole.clone().hold_out(99, 0).unwrap().0.n_rows(), 1, "one always stays");

    let count = |count| NonZeroUsize::new(count).unwrap();
    let taken = whole.clone().take(count(12)).unwrap();
    assert_eq!(sorted(epoch(&taken, 0, 0)), (0..12).collect::<Vec<_>>());
    assert_eq!(taken.first(11).unwrap().iter().map(number).collect::<Vec<_>>(), (0..11).collect::<Vec<_>>());
    let error = whole.take(count(31)).unwrap_err();
    assert!(matches!(error, DataError::TooFewSamples { requested: 31, available: 30 }));
}

#[test]
fn a_row_that_cannot_be_used_comes_in_its_place_and_a_shard_that_shrank_ends_the_stream() {
    let dir = table(&[
        r#"{"image": "a.png", "conditioning_image": "a.png", "text": "0"}"#,
        r#"{"image": "../a.png", "conditioning_image": "a.png", "text": "1"}"#,
        r#"{"image": "a.png", "conditioning_image": "a.png", "text": "2"}"#,
    ]);
    let stream = Stream::open(dir.path(), &SourceOptions::default(), options(1, 0, 1)).unwrap();
    assert_eq!(stream.first(3).unwrap().len(), 2, "without the bad one");
    let next = || {
        let stream = Arc::new(stream.clone());
        StreamCursor::new(stream, 0, NonZeroUsize::new(3).unwrap(), Cursor::default()).next()
    };
    let (rows, _) = next().unwrap();
    let captions: Vec<Option<&str>> =
        rows.iter().map(|row| row.as_ref().ok().map(|sample| sample.captions[0].as_str())).collect();
    assert_eq!(captions, [Some("0"), None, Some("2")]);
    assert!(rows[1].as_ref().unwrap_err().to_string().ends_with("pairs.jsonl:2"));

    fs::write(dir.path().join("pairs.jsonl"), "\n").unwrap();
    let message = next().unwrap_err().to_string();
    assert!(message.ends_with("has fewer than the 3 rows that were counted"), "{message}");
}

fn table(rows: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    image::RgbImage::new(8, 8).save(dir.path().join("a.png")).unwrap();
    fs::write(dir.path().join("pairs.jsonl"), rows.join("\n")).unwrap();
    dir
}
