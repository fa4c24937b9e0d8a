use std::io::Cursor;

use image::RgbImage;
use tempfile::TempDir;

use super::*;
use crate::source::{Columns, Dataset, Layout, SourceOptions};

fn picture(seed: u8, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    RgbImage::from_fn(16, 8, |x, y| [seed, if x < y { 9 } else { 200 }, 0].into())
        .write_to(&mut file, format)
        .unwrap();
    file.into_inner()
}

/// A folder of pairs with these captions; a row has JPEG images if its number is odd.
fn pairs(captions: &[serde_json::Value]) -> (TempDir, Dataset) {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = String::new();
    for (place, caption) in captions.iter().enumerate() {
        let seed = u8::try_from(place).unwrap();
        let (format, end) =
            if place % 2 == 0 { (ImageFormat::Png, "png") } else { (ImageFormat::Jpeg, "jpeg") };
        fs::write(dir.path().join(format!("{place}.{end}")), picture(seed, format)).unwrap();
        fs::write(dir.path().join(format!("{place}-hint.png")), picture(100 + seed, ImageFormat::Png))
            .unwrap();
        let hint = format!("{place}-hint.png");
        let row = serde_json::json!({"file_name": format!("{place}.{end}"),
            "conditioning_image_file_name": hint, "text": caption});
        rows += &format!("{row}\n");
    }
    fs::write(dir.path().join("metadata.jsonl"), rows).unwrap();
    let dataset = Dataset::open(dir.path(), &Columns::default()).unwrap();
    (dir, dataset)
}

fn options(format: ShardFormat, shard_bytes: u64) -> BuildOptions<'static> {
    BuildOptions { format, split: "train", shard_bytes, has_hints: true, on_progress: &|_| () }
}

type Read = (Arc<[u8]>, Arc<[u8]>, Vec<String>);

fn read(dataset: &Dataset) -> Vec<Read> {
    let samples = dataset.samples().iter();
    samples
        .map(|sample| (sample.image.read().unwrap(), sample.hint.read().unwrap(), sample.captions.clone()))
        .collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_packed_is_read_again_byte_for_byte_in_its_order() {
    let captions = [
        vec!["one".into(), "größer, \"two\"".into(), "".into()],
        vec!["in two\nlines".into(), "  with spaces ".into(), "plain".into()],
        vec![serde_json::json!(["a", "b"]), "only one".into(), serde_json::json!(["c\nd", ""])],
    ];
    for captions in captions {
        let (dir, dataset) = pairs(&captions);
        for (format, layout) in
            [(ShardFormat::Parquet, Layout::Parquet), (ShardFormat::Tar, Layout::WebDataset)]
        {
            for shard_bytes in [0, 400, u64::MAX] {
                let out = dir.path().join(format!("{format:?}-{shard_bytes}"));
                let built = build(dataset.samples(), &options(format, shard_bytes), &out).unwrap();
                let packed = Dataset::open(&out, &Columns::default()).unwrap();
                assert_eq!(packed.layout(), layout);
                assert_eq!(read(&packed), read(&dataset), "{captions:?} {format:?} {shard_bytes}");
                assert_eq!(names(&out.join("data")).len(), built.n_shards);
            }
        }
    }
}

#[test]
fn files_hold_what_was_asked_for_and_a_pair_is_never_divided() {
    let (dir, dataset) = pairs(&["".into(), "".into(), "".into(), "".into(), "".into()]);
    let sizes: Vec<u64> =
        read(&dataset).iter().map(|(image, hint, _)| (image.len() + hint.len()) as u64).collect();
    let n_packed = std::cell::Cell::new(0);
    let out = dir.path().join("two");
    let counted = BuildOptions {
        on_progress: &|n| n_packed.set(n),
        ..options(ShardFormat::Parquet, sizes[..2].iter().sum())
    };
    let built = build(dataset.samples(), &counted, &out).unwrap();
    let expected =
        ["train-00000-of-00003.parquet", "train-00001-of-00003.parquet", "train-00002-of-00003.parquet"];
    assert_eq!(names(&out.join("data")), expected);
    assert_eq!((built.n_bytes, n_packed.get()), (sizes.iter().sum(), 5));

    let out = dir.path().join("each");
    build(dataset.samples(), &options(ShardFormat::Tar, 1), &out).unwrap();
    assert_eq!(names(&out.join("data")).len(), 5);
}

#[test]
fn groups_of_rows_are_bounded() {
    let captions: Vec<serde_json::Value> = (0..203).map(|place| place.to_string().into()).collect();
    let (dir, dataset) = pairs(&captions);
    let out = dir.path().join("out");
    build(dataset.samples(), &options(ShardFormat::Parquet, u64::MAX), &out).unwrap();
    let file = fs::File::open(out.join("data/train-00000-of-00001.parquet")).unwrap();
    let metadata = ::parquet::file::metadata::ParquetMetaDataReader::new().parse_and_finish(&file).unwrap();
    let rows: Vec<i64> = metadata.row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(rows, [100, 100, 3]);
}

#[test]
fn without_hints_there_is_no_column_of_them() {
    let (dir, dataset) = pairs(&["one".into(), "two".into()]);
    let columns = Columns { hint: None, ..Columns::default() };
    let source = SourceOptions { columns, ..SourceOptions::default() };
    for format in [ShardFormat::Parquet, ShardFormat::Tar] {
        let out = dir.path().join(format!("{format:?}"));
        let options = BuildOptions { has_hints: false, split: "valid", ..options(format, u64::MAX) };
        build(dataset.samples(), &options, &out).unwrap();
        let source = SourceOptions { split: "valid".to_owned(), ..source.clone() };
        let packed = Dataset::open_with(&out, &source).unwrap();
        assert_eq!(packed.samples()[1].image.read().unwrap(), dataset.samples()[1].image.read().unwrap());
        let error =
            Dataset::open_with(&out, &SourceOptions { columns: Columns::default(), ..source }).unwrap_err();
        assert!(matches!(error, DataError::Row { .. }), "{error:?}");
    }
}

#[test]
fn a_picture_that_is_none_is_told_with_its_row_and_nothing_is_left() {
    let (dir, dataset) = pairs(&["one".into(), "two".into()]);
    fs::write(dir.path().join("1.jpeg"), "no picture").unwrap();
    let out = dir.path().join("out");
    for format in [ShardFormat::Parquet, ShardFormat::Tar] {
        let before = names(dir.path());
        let error = build(dataset.samples(), &options(format, u64::MAX), &out).unwrap_err();
        assert!(error.to_string().contains("metadata.jsonl:2"), "{error}");
        assert_eq!(names(dir.path()), before);
    }
    let error = build(dataset.samples(), &options(ShardFormat::Tar, 1), dir.path()).unwrap_err();
    assert!(matches!(error, DataError::OutputNotEmpty { .. }));
}

#[test]
fn the_readme_tells_the_hub_which_files_are_which_split() {
    let (dir, dataset) = pairs(&["one".into()]);
    let out = dir.path().join("out");
    build(dataset.samples(), &options(ShardFormat::Parquet, 1), &out).unwrap();
    let readme = fs::read_to_string(out.join("README.md")).unwrap();
    let front = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n";
    assert_eq!(
        readme.strip_prefix(front),
        Some("\nPairs: 1. Columns: `image`, `conditioning_image`, `text`.\n")
    );
}
