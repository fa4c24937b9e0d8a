//! One data set in every layout, as `tests/reference/make_layouts.py` writes it with the tools that people use.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::content::Content;
use crate::error::DataError;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/layouts").join(name)
}

/// Bytes of image and hint, and captions.
type Pair = (Arc<[u8]>, Arc<[u8]>, Vec<String>);

fn pairs(samples: &[Sample]) -> Vec<Pair> {
    let pair = |sample: &Sample| {
        (sample.image.read().unwrap(), sample.hint.read().unwrap(), sample.captions.clone())
    };
    samples.iter().map(pair).collect()
}

fn expected() -> Vec<Pair> {
    pairs(Dataset::open(&fixture("imagefolder"), &Columns::default()).unwrap().samples())
}

#[track_caller]
fn check_with(name: &str, layout: Layout, options: &SourceOptions) {
    let dataset = Dataset::open_with(&fixture(name), options).unwrap();
    assert_eq!((dataset.layout(), dataset.samples().len()), (layout, 5), "{name}");
    assert!(pairs(dataset.samples()) == expected(), "{name}: {:#?}", dataset.samples());

    let stream = Stream::open(&fixture(name), options, StreamOptions::default()).unwrap();
    assert_eq!((stream.layout(), stream.n_rows()), (layout, 5), "{name}");
    assert!(pairs(&stream.first(5).unwrap()) == expected(), "{name} as a stream");
    let mut ids: Vec<&str> = dataset.samples().iter().map(|sample| sample.id.as_str()).collect();
    ids.dedup();
    assert_eq!(ids.len(), 5, "{ids:?}");
}

#[track_caller]
fn check(name: &str, layout: Layout) {
    check_with(name, layout, &SourceOptions::default());
}

#[test]
fn every_layout_gives_the_same_pictures_and_captions() {
    check("imagefolder", Layout::ImageFolder);
    check("metadata-parquet", Layout::ImageFolder);
    check("zip-stored.zip", Layout::ImageFolder);
    check("zip-deflated.zip", Layout::ImageFolder);
    check("fill50k", Layout::Fill50k);
    check("fill50k-script", Layout::Table);
    check("jsonl", Layout::Table);
    check("jsonl/pairs.jsonl", Layout::Table);
    check("csv", Layout::Table);
    check("parquet", Layout::Parquet);
    check("parquet-paths", Layout::Parquet);
    check("arrow", Layout::Arrow);
    check("arrow-dict", Layout::Arrow);
    check("webdataset", Layout::WebDataset);
    check("webdataset-json.tar", Layout::WebDataset);
    check("paired", Layout::PairedFolders);
    let hint_dir = Some(fixture("kohya/cond"));
    check_with("kohya/img", Layout::PairedFolders, &SourceOptions { hint_dir, ..SourceOptions::default() });
    let columns = Columns { image: "picture".into(), hint: Some("edges".into()), caption: "words".into() };
    check_with(
        "parquet-binary.parquet",
        Layout::Parquet,
        &SourceOptions { columns, ..SourceOptions::default() },
    );
}

#[test]
fn another_split_is_read_by_its_name_and_an_unknown_one_lists_those_that_are_there() {
    let of = |name: &str, split: &str| {
        let options = SourceOptions { split: split.to_owned(), ..SourceOptions::default() };
        Dataset::open_with(&fixture(name), &options)
    };
    for name in ["parquet", "arrow-dict"] {
        assert!(pairs(of(name, "test").unwrap().samples()) == expected()[..1], "{name}");
        let message = of(name, "validation").unwrap_err().to_string();
        assert!(message.ends_with("has no split `validation`, only test, train"), "{message}");
    }
    let message = of("imagefolder", "test").unwrap_err().to_string();
    assert!(message.ends_with("has no split `test`, only train"), "{message}");
}

#[test]
fn a_configuration_is_a_folder_and_an_unknown_one_lists_those_that_are_there() {
    let of = |config: &str| {
        let options = SourceOptions { config: Some(config.to_owned()), ..SourceOptions::default() };
        Dataset::open_with(&fixture(""), &options)
    };
    assert_eq!(of("paired").unwrap().samples().len(), 5);
    let message = of("circles").unwrap_err().to_string();
    assert!(message.contains("has no configuration `circles`; its folders are: arrow, "), "{message}");
    assert!(matches!(of("../layouts").unwrap_err(), DataError::UnsafePath { .. }));
}

#[test]
fn parquet_is_unpacked_once_for_all_runs() {
    let cache = tempfile::tempdir().unwrap();
    let options = SourceOptions { cache_dir: Some(cache.path().to_owned()), ..SourceOptions::default() };
    let open = || Dataset::open_with(&fixture("parquet"), &options).unwrap();
    let first = open();
    let archives = || {
        let mut found: Vec<_> = std::fs::read_dir(cache.path().join("unpacked"))
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.file_name(), entry.metadata().unwrap().modified().unwrap())
            })
            .collect();
        found.sort();
        found
    };
    let before = archives();
    assert_eq!(before.len(), 2);
    assert_eq!(open().samples(), first.samples());
    assert_eq!(archives(), before);
    let sample = &first.samples()[3];
    assert_eq!(sample.id, "data/train-00001-of-00002.parquet:1");
    assert!(sample.origin.to_string().ends_with("data/train-00001-of-00002.parquet:1"));

    // What is not whole is made again.
    let archive = cache.path().join("unpacked").join(&before[0].0);
    let bytes = std::fs::read(&archive).unwrap();
    for len in [0, 1000, 1024, bytes.len() - 1024] {
        std::fs::write(&archive, &bytes[..len]).unwrap();
        assert!(pairs(open().samples()) == expected(), "cut to {len} bytes");
    }
    // A wrong bit in a picture costs that picture, and says so.
    let dataset = open();
    let bytes = std::fs::read(&archive).unwrap();
    let Content::Part(part) = &dataset.samples()[0].image else { panic!("a part of the archive") };
    let place = usize::try_from(part.start).unwrap() + 60;
    let damaged = part.container.path().to_owned();
    let mut flipped = if damaged == archive { bytes } else { std::fs::read(&damaged).unwrap() };
    flipped[place] ^= 1;
    std::fs::write(&damaged, flipped).unwrap();
    let faults: Vec<String> = open()
        .samples()
        .iter()
        .filter_map(|sample| sample.image.read().and(sample.hint.read()).err())
        .map(|error| error.to_string())
        .collect();
    assert!(matches!(&faults[..], [fault] if fault.ends_with("000000000.image` is damaged")), "{faults:?}");
}

#[test]
fn folders_of_repeats_repeat_their_images() {
    let dir = tempfile::tempdir().unwrap();
    for (folder, files) in [("img/3_a", ["x.png", "x.txt"]), ("img/1_b", ["y.png", "y.txt"])] {
        std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        for file in files {
            std::fs::write(dir.path().join(folder).join(file), "t").unwrap();
        }
    }
    std::fs::create_dir_all(dir.path().join("cond/3_a")).unwrap();
    std::fs::write(dir.path().join("cond/3_a/x.png"), "").unwrap();
    std::fs::write(dir.path().join("cond/y.png"), "").unwrap();
    let hint_dir = Some(dir.path().join("cond"));
    let options = SourceOptions { hint_dir, ..SourceOptions::default() };
    let dataset = Dataset::open_with(&dir.path().join("img"), &options).unwrap();
    let ids: Vec<&str> = dataset.samples().iter().map(|sample| sample.id.as_str()).collect();
    assert_eq!(ids, ["1_b/y.png", "3_a/x.png", "3_a/x.png#2", "3_a/x.png#3"]);
}

#[test]
fn a_row_in_the_middle_is_reached_from_anywhere() {
    for name in ["parquet", "arrow", "webdataset", "jsonl", "csv", "zip-deflated.zip"] {
        let options = StreamOptions { shuffle_buffer: NonZeroUsize::MIN, ..StreamOptions::default() };
        let stream = Stream::open(&fixture(name), &SourceOptions::default(), options).unwrap();
        for seed in 0..20 {
            let (rest, held_out) = stream.clone().hold_out(2, seed).unwrap();
            assert_eq!((rest.n_rows(), held_out.len()), (3, 2));
            let all = expected();
            for sample in &held_out {
                let row: usize = sample.id.strip_prefix("row ").unwrap().parse().unwrap();
                assert!(pairs(std::slice::from_ref(sample))[0] == all[row], "{name}, seed {seed}");
            }
        }
    }
}
