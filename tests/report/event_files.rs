//! TensorBoard's event files, read by a parser that shares no code with the writer.

use std::fs;
use std::path::{Path, PathBuf};

use pyrograph_report::{TensorBoard, read_metrics};

use super::run_dir;

/// What a file says of one tag at one step.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    step: u64,
    tag: String,
    content: Content,
}

#[derive(Debug, Clone, PartialEq)]
enum Content {
    Scalar(f32),
    Picture { width: u64, height: u64, png: Vec<u8> },
}

/// A field of a protobuf message.
enum Field<'a> {
    Number(u64),
    Double(f64),
    Float(f32),
    Bytes(&'a [u8]),
}

/// The CRC-32C of its definition, bit by bit, as TensorFlow masks it.
fn masked_crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    let crc = !crc;
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Takes `n` bytes off the front.
fn take<'a>(bytes: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (head, tail) = bytes.split_at(n);
    *bytes = tail;
    head
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)[0];
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            break;
        }
    }
    value
}

/// The fields of a message with their numbers.
fn fields(mut message: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let field = match key & 7 {
            0 => Field::Number(varint(&mut message)),
            1 => Field::Double(f64::from_le_bytes(take(&mut message, 8).try_into().unwrap())),
            2 => {
                let len = usize::try_from(varint(&mut message)).unwrap();
                Field::Bytes(take(&mut message, len))
            }
            5 => Field::Float(f32::from_le_bytes(take(&mut message, 4).try_into().unwrap())),
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, field));
    }
    fields
}

/// The entries of a file, and the step from which it makes earlier files void.
fn read(path: &Path) -> (Vec<Entry>, Option<u64>) {
    let bytes = fs::read(path).unwrap();
    let mut rest = bytes.as_slice();
    let (mut entries, mut void_from) = (Vec::new(), None);
    let mut is_first = true;
    while !rest.is_empty() {
        let length = take(&mut rest, 8);
        assert_eq!(take(&mut rest, 4), masked_crc(length).to_le_bytes());
        let event = take(&mut rest, usize::try_from(u64::from_le_bytes(length.try_into().unwrap())).unwrap());
        assert_eq!(take(&mut rest, 4), masked_crc(event).to_le_bytes());
        let mut step = 0;
        for field in fields(event) {
            match field {
                (1, Field::Double(wall_time)) => assert!(wall_time > 1.7e9, "seconds since 1970"),
                (2, Field::Number(number)) => step = number,
                (3, Field::Bytes(version)) => assert!(is_first && version == b"brain.Event:2"),
                (5, Field::Bytes(summary)) => {
                    entries.extend(fields(summary).iter().map(|value| entry(step, value)));
                }
                (7, Field::Bytes(_)) => void_from = Some(step),
                (number, _) => panic!("field {number}"),
            }
        }
        is_first = false;
    }
    (entries, void_from)
}

fn entry(step: u64, value: &(u64, Field<'_>)) -> Entry {
    let (1, Field::Bytes(value)) = value else { panic!("a summary holds values") };
    let (mut tag, mut content) = (String::new(), None);
    for field in fields(value) {
        match field {
            (1, Field::Bytes(name)) => tag = String::from_utf8(name.to_vec()).unwrap(),
            (2, Field::Float(number)) => content = Some(Content::Scalar(number)),
            (4, Field::Bytes(image)) => content = Some(picture(image)),
            (number, _) => panic!("field {number}"),
        }
    }
    Entry { step, tag, content: content.unwrap() }
}

fn picture(image: &[u8]) -> Content {
    let (mut size, mut bytes) = ([0; 2], Vec::new());
    for field in fields(image) {
        match field {
            (number @ (1 | 2), Field::Number(pixels)) => size[usize::try_from(number).unwrap() - 1] = pixels,
            (4, Field::Bytes(png)) => bytes = png.to_vec(),
            (number, _) => assert_eq!(number, 3, "only the color space is left"),
        }
    }
    Content::Picture { height: size[0], width: size[1], png: bytes }
}

/// The event files of a folder in TensorBoard's order.
fn files(log_dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(log_dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn event_files_say_what_the_metrics_say() {
    let dir = run_dir();
    let logs = dir.path().join("logs");
    let mut tensorboard = TensorBoard::create(&logs, 0).unwrap();
    for record in read_metrics(dir.path()).unwrap() {
        tensorboard.record(&record).unwrap();
    }
    let files = files(&logs);
    assert_eq!(files.len(), 1);
    let (entries, void_from) = read(&files[0]);
    assert_eq!(void_from, Some(0));
    let of_tag = |tag: &str| -> Vec<(u64, Content)> {
        let entries = entries.iter().filter(|entry| entry.tag == tag);
        entries.map(|entry| (entry.step, entry.content.clone())).collect()
    };
    let losses = of_tag("train/loss");
    assert_eq!((losses.len(), &losses[3]), (40, &(4, Content::Scalar(0.25))));
    assert_eq!(of_tag("eval/control_gap")[2], (20, Content::Scalar(0.03)));
    assert_eq!(of_tag("eval/took_hold_step"), [(20, Content::Scalar(20.0))]);
    assert_eq!(of_tag("zero_conv/weight_norm/down_1")[4], (40, Content::Scalar(1.0)));
    let steps: Vec<u64> = of_tag("eval/loss_t750-999").iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [0, 10, 20, 30, 40]);

    let png = fs::read(dir.path().join("validation/step-000030/pair-1-image-0.png")).unwrap();
    assert_eq!(of_tag("validation/pair-1")[3], (30, Content::Picture { width: 16, height: 16, png }));
    assert_eq!((of_tag("validation/pair-1-hint").len(), of_tag("validation/pair-1-target").len()), (1, 1));
}

#[test]
fn a_resumed_run_has_a_file_of_its_own_and_repeats_no_step() {
    let dir = run_dir();
    let logs = dir.path().join("logs");
    for resumed_at in [0, 25] {
        let mut tensorboard = TensorBoard::create(&logs, resumed_at).unwrap();
        for record in read_metrics(dir.path()).unwrap() {
            tensorboard.record(&record).unwrap();
        }
    }
    let files = files(&logs);
    assert_eq!(files.len(), 2);
    let (entries, void_from) = read(&files[1]);
    assert_eq!(void_from, Some(26));
    let steps = entries.iter().filter(|entry| entry.tag == "train/loss").map(|entry| entry.step);
    assert_eq!(steps.collect::<Vec<_>>(), (26..=40).collect::<Vec<_>>());
    assert!(entries.iter().all(|entry| entry.step > 25));
}
