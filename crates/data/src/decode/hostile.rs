//! Pictures that were made to do harm, or that a disk has spoilt: decoded right or refused, in bounded time and memory.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use image::{DynamicImage, ImageFormat};

use super::*;
use crate::meter::peak_of;

const MIB: usize = 1 << 20;

fn decode(bytes: &[u8]) -> (Result<RgbImage, DataError>, usize) {
    let content = Content::Bytes { name: "picture".into(), bytes: Arc::from(bytes) };
    peak_of(|| content.decode_rgb8())
}

fn picture(width: u32, height: u32) -> DynamicImage {
    let noise = |x: u32, y: u32| image::Rgb([0, 1, 2].map(|c| (x * 97 + y * 57 + c * 31).to_le_bytes()[0]));
    RgbImage::from_fn(width, height, noise).into()
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

const FORMATS: [ImageFormat; 6] = [
    ImageFormat::Png,
    ImageFormat::Jpeg,
    ImageFormat::WebP,
    ImageFormat::Bmp,
    ImageFormat::Tiff,
    ImageFormat::Gif,
];

#[test]
fn every_cut_and_every_wrong_byte_is_decoded_or_refused_in_bounded_memory() {
    for format in FORMATS {
        let whole = encoded(&picture(40, 30), format);
        assert!(decode(&whole).0.is_ok(), "{format:?}");
        let check = |bytes: &[u8], what: &str| {
            let (_, peak) = decode(bytes);
            assert!(peak < 64 * MIB, "{format:?} {what}: {peak} bytes");
        };
        for len in 0..16 {
            check(&whole[..whole.len() * len / 16], &format!("cut to {len}/16"));
        }
        for place in (0..whole.len().min(600)).chain((600..whole.len()).step_by(37)) {
            for mask in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[place] ^= mask;
                check(&bytes, &format!("byte {place} with {mask:#x}"));
            }
        }
    }
}

fn png_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let checked = [kind, data].concat();
    let len = u32::try_from(data.len()).unwrap();
    [&len.to_be_bytes()[..], &checked, &crc32fast::hash(&checked).to_be_bytes()].concat()
}

/// A small PNG with a chunk behind its header.
fn png_with(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let whole = encoded(&picture(8, 8), ImageFormat::Png);
    [&whole[..33], &png_chunk(kind, data), &whole[33..]].concat()
}

fn zeros(n_bytes: usize) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    let block = vec![0; MIB];
    for _ in 0..n_bytes / MIB {
        encoder.write_all(&block).unwrap();
    }
    encoder.finish().unwrap()
}

#[test]
fn texts_and_profiles_that_unpack_to_hundreds_of_megabytes_are_not_unpacked() {
    let bomb = zeros(400 * MIB);
    assert!(bomb.len() < 4 * MIB);
    for (kind, start) in [
        (b"zTXt", &b"Comment\0\0"[..]),
        (b"iTXt", b"XML:com.adobe.xmp\0\x01\0\0\0"),
        (b"iCCP", b"profile\0\0"),
    ] {
        let (result, peak) = decode(&png_with(kind, &[start, &bomb].concat()));
        let name = String::from_utf8_lossy(kind);
        assert!(peak < 48 * MIB, "{name}: {peak} bytes");
        // Whether its text is refused or passed over, the picture is what it is.
        if let Ok(image) = result {
            assert_eq!(DynamicImage::from(image), picture(8, 8), "{name}");
        }
    }
}

#[test]
fn pictures_that_claim_to_be_huge_are_refused_before_memory_is_taken() {
    let header = |width: u32, height: u32| {
        let ihdr = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
        let data = png_chunk(b"IDAT", &zeros(0));
        [b"\x89PNG\r\n\x1a\n", &png_chunk(b"IHDR", &ihdr)[..], &data, &png_chunk(b"IEND", b"")].concat()
    };
    for (width, height) in
        [(100_000, 100_000), (1, 60_000), (60_000, 1), (32_768, 32_768), (0, 5), (u32::MAX, 1)]
    {
        let (result, peak) = decode(&header(width, height));
        assert!(result.is_err() && peak < MIB, "{width}x{height}: {peak} bytes");
    }
    // The longest that is decoded.
    let strip = encoded(&picture(1, 32_768), ImageFormat::Png);
    assert_eq!(decode(&strip).0.unwrap().dimensions(), (1, 32_768));
    // Each of the other headers with the largest sides that it can hold.
    for (format, places) in
        [(ImageFormat::Bmp, 18..26), (ImageFormat::Gif, 6..10), (ImageFormat::WebP, 26..30)]
    {
        let mut bytes = encoded(&picture(8, 8), format);
        bytes[places].fill(0x7f);
        let (_, peak) = decode(&bytes);
        assert!(peak < 600 * MIB, "{format:?}: {peak} bytes");
    }
}

#[test]
fn a_picture_is_known_by_what_it_holds_whatever_its_name_says() {
    let dir = tempfile::tempdir().unwrap();
    for (format, name) in FORMATS.into_iter().zip(["a.jpg", "a.png", "a.gif", "a.txt", "a", "a.webp"]) {
        let path = dir.path().join(name);
        std::fs::write(&path, encoded(&picture(8, 8), format)).unwrap();
        assert_eq!(decode_rgb8(Path::new(&path)).unwrap().dimensions(), (8, 8), "{format:?} as {name}");
    }
}

#[test]
fn files_that_are_no_pictures_are_refused() {
    for bytes in [
        &b""[..],
        b"\0",
        b"not a picture",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        b"PK\x03\x04",
    ] {
        assert!(matches!(decode(bytes).0, Err(DataError::Decode { .. })), "{bytes:?}");
    }
}
