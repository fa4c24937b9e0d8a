use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use image::RgbImage;
use tempfile::TempDir;

use super::*;
use crate::content::Content;
use crate::error::DataError;
use crate::random::{self, Purpose};

/// A folder with the given files: a small PNG for image names, the text otherwise.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if name.ends_with("png") {
            RgbImage::new(8, 8).save(&path).unwrap();
        } else {
            fs::write(&path, text).unwrap();
        }
    }
    dir
}

/// Message and causes, joined by `: `, with the folder's name cut out.
fn message(dir: &TempDir, error: &DataError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.replace(&format!("{}/", dir.path().canonicalize().unwrap().display()), "")
}

fn names(samples: &[Sample], of: fn(&Sample) -> &Content) -> Vec<&str> {
    samples.iter().map(|sample| of(sample).file().unwrap().file_name().unwrap().to_str().unwrap()).collect()
}

const IMAGE: (&str, &str) = ("a.png", "");
const HINT: (&str, &str) = ("h.png", "");
const ROW: &str = r#"{"file_name": "a.png", "conditioning_image_file_name": "h.png", "text": "t"}"#;

#[test]
fn layouts_are_told_apart() {
    #[track_caller]
    fn check(files: &[(&str, &str)], layout: Layout) {
        let dir = folder(files);
        let dataset = Dataset::open(dir.path(), &Columns::default()).unwrap();
        assert_eq!((dataset.layout(), dataset.samples().len()), (layout, 1));
        let sample = &dataset.samples()[0];
        assert_eq!(sample.captions, ["t"]);
        assert!(sample.image.file().unwrap().ends_with("a.png") && sample.hint != sample.image);
    }
    let csv = "file_name,conditioning_image_file_name,text\na.png,h.png,t\n";
    let prompts = r#"{"source": "source/a.png", "target": "target/a.png", "prompt": "t"}"#;
    let pair = [("target/a.png", ""), ("source/a.png", "")];

    check(&[IMAGE, HINT, ("metadata.jsonl", ROW)], Layout::ImageFolder);
    check(&[("train/a.png", ""), ("train/h.png", ""), ("train/metadata.jsonl", ROW)], Layout::ImageFolder);
    check(&[IMAGE, HINT, ("metadata.csv", csv)], Layout::ImageFolder);
    check(
        &[IMAGE, HINT, ("metadata.csv", &format!("\u{feff}{}", csv.replace('\n', "\r\n")))],
        Layout::ImageFolder,
    );
    check(&[IMAGE, HINT, ("metadata.jsonl", &format!("\u{feff}{ROW}\r\n\r\n"))], Layout::ImageFolder);
    check(&[pair[0], pair[1], ("prompt.json", prompts)], Layout::Fill50k);
    check(&[pair[0], pair[1], ("target/a.txt", "t\n")], Layout::PairedFolders);
    check(
        &[
            ("train/images/a.png", ""),
            ("train/images/a.txt", "t"),
            ("train/hints/a.png", ""),
            ("train/hints/x.txt", ""),
        ],
        Layout::PairedFolders,
    );
    // What wins if a folder could be read in more than one way.
    check(
        &[IMAGE, HINT, ("metadata.jsonl", ROW), ("prompt.json", ""), ("target/b.txt", "")],
        Layout::ImageFolder,
    );
}

#[test]
fn columns_are_selectable() {
    let row = r#"{"picture": "a.png", "edges_file_name": "h.png", "words": ["one", "two"], "id": 7}"#;
    let dir = folder(&[IMAGE, HINT, ("metadata.jsonl", row)]);
    let columns = Columns { image: "picture".into(), hint: Some("edges".into()), caption: "words".into() };
    let dataset = Dataset::open(dir.path(), &columns).unwrap();
    assert_eq!(dataset.samples()[0].captions, ["one", "two"]);
    assert_eq!(names(dataset.samples(), |sample| &sample.hint), ["h.png"]);

    let dir = folder(&[("photos/a.png", ""), ("edges/a.png", ""), ("photos/a.txt", "")]);
    let columns = Columns { image: "photos".into(), hint: Some("edges".into()), caption: "text".into() };
    let dataset = Dataset::open(dir.path(), &columns).unwrap();
    assert_eq!(
        (dataset.layout(), &dataset.samples()[0].captions[..]),
        (Layout::PairedFolders, &[String::new()][..])
    );
}

#[test]
fn bad_rows_are_named_with_file_line_and_reason() {
    #[track_caller]
    fn check(row: &str, expected: &str) {
        let dir = folder(&[IMAGE, HINT, ("metadata.jsonl", &format!("{ROW}\n{row}\n"))]);
        let error = Dataset::open(dir.path(), &Columns::default()).unwrap_err();
        assert_eq!(message(&dir, &error), format!("cannot use row metadata.jsonl:2: {expected}"));
    }
    let with_image = |path: &str| ROW.replace("a.png", path);
    check("{", "expected one JSON object per line: EOF while parsing an object at line 1 column 1");
    check(
        "[1]",
        "expected one JSON object per line: invalid type: sequence, expected a map at line 1 column 0",
    );
    check(
        r#"{"file_name": "a.png", "text": "t"}"#,
        "--conditioning_image_column value 'conditioning_image' not found in dataset columns. Dataset columns are: \
         image, text",
    );
    check(&ROW.replace("\"a.png\"", "7"), "column `image` holds 7, expected the path of an image");
    check(&ROW.replace("\"t\"", "null"), "column `text` holds null, expected a string or a list of strings");
    check(&ROW.replace("\"t\"", "[]"), "column `text` holds [], expected a string or a list of strings");
    check(&with_image("b.png"), "`b.png` does not exist or is not a file");
    check(&with_image("."), "`.` does not exist or is not a file");
    check(&with_image(""), "path `` is empty");
    check(&with_image("../a.png"), "path `../a.png` contains `..`");
    check(
        &with_image("/etc/passwd"),
        "path `/etc/passwd` is absolute, expected one relative to the metadata file",
    );
    check(&with_image("C:/a.png"), "path `C:/a.png` is absolute, expected one relative to the metadata file");
    check(&with_image(r"x\\a.png"), r"path `x\a.png` contains a backslash, expected `/` between folders");
    check(&with_image(r"a.png\u0000"), "path `a.png\0` contains a NUL byte");
    check(&" ".repeat(1 << 21), "the line is longer than 1048576 bytes");
}

#[test]
fn bad_csv_rows_are_named_with_their_line() {
    let header = "file_name,conditioning_image_file_name,text\na.png,h.png,t\n";
    let dir = folder(&[IMAGE, HINT, ("metadata.csv", &format!("{header}a.png,h.png\n"))]);
    let error = Dataset::open(dir.path(), &Columns::default()).unwrap_err();
    assert!(
        message(&dir, &error).starts_with("cannot use row metadata.csv:3: expected a comma-separated row")
    );

    let dir = folder(&[IMAGE, HINT, ("metadata.csv", &format!("{header}\"a.png\",x.png,\"two\nlines\"\n"))]);
    let error = Dataset::open(dir.path(), &Columns::default()).unwrap_err();
    assert_eq!(
        message(&dir, &error),
        "cannot use row metadata.csv:3: `x.png` does not exist or is not a file"
    );
}

#[cfg(unix)]
#[test]
fn link_out_of_the_folder_is_refused() {
    let outside = folder(&[("secret.png", "")]);
    let dir = folder(&[IMAGE, HINT, ("metadata.jsonl", &ROW.replace("a.png", "link.png"))]);
    std::os::unix::fs::symlink(outside.path().join("secret.png"), dir.path().join("link.png")).unwrap();
    let error = Dataset::open(dir.path(), &Columns::default()).unwrap_err();
    assert!(message(&dir, &error).ends_with("path `link.png` is a link out of the data set's folder"));

    fs::remove_file(dir.path().join("link.png")).unwrap();
    std::os::unix::fs::symlink("a.png", dir.path().join("link.png")).unwrap();
    assert!(Dataset::open(dir.path(), &Columns::default()).is_ok());
}

#[test]
fn near_column_name_is_suggested() {
    let dir = folder(&[IMAGE, HINT, ("metadata.jsonl", ROW)]);
    let columns = Columns { hint: Some("conditioning_imgae".into()), ..Columns::default() };
    let hint = Dataset::open(dir.path(), &columns).unwrap_err().hint();
    assert_eq!(hint.as_deref(), Some("did you mean `--conditioning_image_column conditioning_image`?"));
}

#[test]
fn folders_that_do_not_pair_up_are_listed() {
    #[track_caller]
    fn check(files: &[&str], expected: &str) {
        let files: Vec<(&str, &str)> = files.iter().map(|name| (*name, "t")).collect();
        let dir = folder(&files);
        let error = Dataset::open(dir.path(), &Columns::default()).unwrap_err();
        assert_eq!(message(&dir, &error), expected);
    }
    check(
        &["images/a.png", "images/b.png", "images/a.txt", "hint/b.png", "hint/c.png"],
        "images and hints do not pair up; 1 image(s) without a hint: a; 1 hint(s) without an image: c; \
         1 image(s) without a .txt caption: b",
    );
    let many: Vec<String> = (10..22).map(|stem| format!("hints/{stem}.png")).collect();
    let mut files: Vec<&str> = many.iter().map(String::as_str).collect();
    files.extend(["images/10.png", "images/10.txt"]);
    check(
        &files,
        "images and hints do not pair up; 11 hint(s) without an image: 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, ...",
    );
}

#[test]
fn two_images_of_one_stem_are_refused() {
    let dir = folder(&[("images/a.png", ""), ("images/a.jpg", ""), ("hint/a.png", "")]);
    let error = Dataset::open(dir.path(), &Columns::default()).unwrap_err();
    assert!(matches!(error, DataError::DuplicateStem { .. }), "{error}");
}

#[test]
fn folder_without_a_data_set_is_refused_with_a_hint() {
    #[track_caller]
    fn check(files: &[(&str, &str)], expected: &str) {
        let dir = folder(files);
        let error = Dataset::open(dir.path(), &Columns::default()).unwrap_err();
        let root = dir.path().canonicalize().unwrap();
        assert_eq!(message(&dir, &error), expected.replace("DIR", &root.display().to_string()));
    }
    check(&[IMAGE], "`DIR` is not a data set this program can read");
    check(&[("metadata.jsonl", "\n")], "the data set `DIR` is empty");
    check(
        &[("metadata.jsonl", ""), ("train/metadata.csv", "")],
        "`DIR` is ambiguous: it has `metadata.jsonl` and `train/metadata.csv`",
    );
    check(
        &[("image/a.png", ""), ("images/a.png", ""), ("hint/a.png", "")],
        "`DIR` is ambiguous: it has `image/` and `images/`",
    );
    assert!(matches!(Dataset::open(Path::new("/no/such"), &Columns::default()), Err(DataError::Read { .. })));
}

#[test]
fn rows_that_share_an_image_get_ids_of_their_own() {
    let dir = folder(&[IMAGE, HINT, ("metadata.jsonl", &format!("{ROW}\n{ROW}\n{ROW}\n"))]);
    let dataset = Dataset::open(dir.path(), &Columns::default()).unwrap();
    let ids: Vec<&str> = dataset.samples().iter().map(|sample| sample.id.as_str()).collect();
    assert_eq!(ids, ["a.png", "a.png#2", "a.png#3"]);
}

#[test]
fn taking_some_samples_draws_them_by_seed() {
    let rows: String =
        (0..20).map(|index| format!("{}\n", ROW.replace("\"t\"", &format!("\"{index}\"")))).collect();
    let dir = folder(&[IMAGE, HINT, ("metadata.jsonl", &rows)]);
    let dataset = Dataset::open(dir.path(), &Columns::default()).unwrap();
    let take = |count, seed| {
        let taken = dataset.clone().take(NonZeroUsize::new(count).unwrap(), seed)?;
        Ok::<_, DataError>(
            taken.samples().iter().map(|sample| sample.captions[0].clone()).collect::<Vec<_>>(),
        )
    };
    assert_eq!(take(5, 1).unwrap(), take(5, 1).unwrap());
    assert_ne!(take(5, 1).unwrap(), take(5, 2).unwrap());
    assert_eq!(take(5, 1).unwrap(), take(20, 1).unwrap()[..5]);
    assert!(matches!(take(21, 1), Err(DataError::TooFewSamples { requested: 21, available: 20 })));
}

#[test]
fn samples_held_out_are_drawn_by_seed_and_one_sample_always_stays() {
    let rows: String =
        (0..20).map(|index| format!("{}\n", ROW.replace("\"t\"", &format!("\"{index}\"")))).collect();
    let dir = folder(&[IMAGE, HINT, ("metadata.jsonl", &rows)]);
    let dataset = Dataset::open(dir.path(), &Columns::default()).unwrap();
    let hold_out = |count, seed| {
        let captions =
            |samples: &[Sample]| samples.iter().map(|sample| sample.captions[0].clone()).collect::<Vec<_>>();
        let (kept, held_out) = dataset.clone().hold_out(count, seed);
        (captions(kept.samples()), captions(&held_out))
    };
    let (kept, held_out) = hold_out(5, 1);
    assert_eq!(hold_out(5, 1).1, held_out);
    assert_ne!(hold_out(5, 2).1, held_out);
    let all: Vec<String> = (0..20).map(|index| index.to_string()).collect();
    let expected: Vec<String> = all.iter().filter(|caption| !held_out.contains(caption)).cloned().collect();
    assert_eq!((kept, held_out.len()), (expected, 5), "the others stay, in their order");
    assert_eq!(hold_out(0, 1), (all, Vec::new()));
    assert_eq!(hold_out(99, 1).0.len(), 1);
}

#[test]
fn captions_are_drawn_and_dropped_at_their_rates() {
    let dir = folder(&[IMAGE, HINT, ("metadata.jsonl", &ROW.replace("\"t\"", r#"["one", "two"]"#))]);
    let dataset = Dataset::open(dir.path(), &Columns::default()).unwrap();
    let sample = &dataset.samples()[0];
    let draw = |step, rate| sample.caption(&mut random::rng(0, step, &sample.id, Purpose::Caption), rate);
    let count = |caption, rate| (0..4000).filter(|step| draw(*step, rate) == caption).count();
    assert!((900..1100).contains(&count("", 0.25)));
    assert!((1400..1600).contains(&count("one", 0.25)));
    assert!((1400..1600).contains(&count("two", 0.25)));
    assert_eq!((count("", 0.0), count("", 1.0)), (0, 4000));
}

#[test]
fn images_and_captions_are_enough_if_hints_are_made() {
    let columns = Columns { hint: None, ..Columns::default() };
    for prefix in ["", "images/", "train/images/"] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(prefix);
        fs::create_dir_all(&folder).unwrap();
        for (name, content) in
            [("a.png", "picture"), ("a.txt", "a cat"), ("b.jpg", "picture"), ("b.txt", "a dog")]
        {
            fs::write(folder.join(name), content).unwrap();
        }
        assert!(Dataset::open(dir.path(), &Columns::default()).is_err());
        let dataset = Dataset::open(dir.path(), &columns).unwrap();
        let found: Vec<_> = dataset
            .samples()
            .iter()
            .map(|sample| (sample.id.as_str(), sample.captions[0].as_str()))
            .collect();
        let within = prefix.strip_prefix("train/").unwrap_or(prefix);
        let expected = [(format!("{within}a.png"), "a cat"), (format!("{within}b.jpg"), "a dog")];
        assert_eq!(found, expected.each_ref().map(|(id, caption)| (id.as_str(), *caption)));
        assert!(dataset.samples().iter().all(|sample| sample.hint == sample.image));
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.png"), "picture").unwrap();
    fs::write(dir.path().join("metadata.jsonl"), r#"{"file_name": "a.png", "text": "a cat"}"#).unwrap();
    let dataset = Dataset::open(dir.path(), &columns).unwrap();
    assert_eq!(dataset.samples()[0].hint, dataset.samples()[0].image);
}
