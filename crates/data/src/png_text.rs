//! Text in PNG files: what a picture was made with.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::Path;

use image::error::{DecodingError, EncodingError, ImageFormatHint, LimitError, LimitErrorKind};
use image::{ImageError, ImageFormat, RgbImage};
use png::{BitDepth, ColorType, Compression, Decoder, Encoder, Filter, Limits};

use crate::error::DataError;

/// Longer than anything that a program writes about a picture.
const MAX_TEXT_BYTES: usize = 1 << 20;
/// Memory for all texts and profiles of a file.
const MAX_METADATA_BYTES: usize = 16 << 20;

/// Writes a PNG file with a text under a keyword: `tEXt` if it is all Latin-1, else `iTXt`, as Pillow does.
///
/// The picture is written as by [`save_png`](crate::save_png).
///
/// # Errors
/// [`DataError::Encode`] if the file cannot be written.
pub fn save_png_with_text(image: &RgbImage, keyword: &str, text: &str, path: &Path) -> Result<(), DataError> {
    write_png(image, keyword, text, path).map_err(|error| {
        let source = match error {
            png::EncodingError::IoError(source) => ImageError::IoError(source),
            other => {
                ImageError::Encoding(EncodingError::new(ImageFormatHint::Exact(ImageFormat::Png), other))
            }
        };
        DataError::Encode { path: path.to_owned(), source }
    })
}

fn write_png(image: &RgbImage, keyword: &str, text: &str, path: &Path) -> Result<(), png::EncodingError> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut encoder = Encoder::new(&mut file, image.width(), image.height());
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Fast);
    encoder.set_filter(Filter::Adaptive);
    if text.chars().all(|letter| u32::from(letter) < 0x100) {
        encoder.add_text_chunk(keyword.to_owned(), text.to_owned())?;
    } else {
        encoder.add_itxt_chunk(keyword.to_owned(), text.to_owned())?;
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(image.as_raw())?;
    writer.finish()?;
    file.flush()?;
    Ok(())
}

/// The text under a keyword in a PNG file; `None` if there is none.
///
/// # Errors
/// [`DataError::Decode`] if the file is not a sound PNG file, [`DataError::Read`] if it cannot be opened and [`DataError::TextTooLong`] if the
/// text is larger than 1 MiB.
pub fn read_png_text(path: &Path, keyword: &str) -> Result<Option<String>, DataError> {
    let unreadable = |source| DataError::Read { path: path.to_owned(), source };
    // Opening a pipe would block for ever.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err(DataError::MissingFile { path: path.to_owned() });
    }
    let file = BufReader::new(File::open(path).map_err(unreadable)?);
    let broken =
        |error| DataError::Decode { picture: path.display().to_string(), source: image_error(error) };
    let mut reader =
        Decoder::new_with_limits(file, Limits { bytes: MAX_METADATA_BYTES }).read_info().map_err(broken)?;
    let mut text = find_text(reader.info(), keyword).map_err(broken)?;
    if text.is_none() {
        // Texts may also lie after the picture.
        reader.finish().map_err(broken)?;
        text = find_text(reader.info(), keyword).map_err(broken)?;
    }
    match text {
        Some(text) if text.len() > MAX_TEXT_BYTES => Err(DataError::TextTooLong {
            path: path.to_owned(),
            keyword: keyword.to_owned(),
            max_bytes: MAX_TEXT_BYTES,
        }),
        text => Ok(text),
    }
}

/// The first text of that keyword, of whichever kind.
fn find_text(info: &png::Info<'_>, keyword: &str) -> Result<Option<String>, png::DecodingError> {
    if let Some(chunk) = info.uncompressed_latin1_text.iter().find(|chunk| chunk.keyword == keyword) {
        return Ok(Some(chunk.text.clone()));
    }
    // Twice the limit, since Latin-1 grows as UTF-8 and what is too long is to be told so.
    let max_bytes = 2 * MAX_TEXT_BYTES;
    if let Some(chunk) = info.utf8_text.iter().find(|chunk| chunk.keyword == keyword) {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(max_bytes)?;
        return chunk.get_text().map(Some);
    }
    if let Some(chunk) = info.compressed_latin1_text.iter().find(|chunk| chunk.keyword == keyword) {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(max_bytes)?;
        return chunk.get_text().map(Some);
    }
    Ok(None)
}

fn image_error(error: png::DecodingError) -> ImageError {
    match error {
        png::DecodingError::IoError(source) if source.kind() != io::ErrorKind::UnexpectedEof => {
            ImageError::IoError(source)
        }
        png::DecodingError::LimitsExceeded => {
            ImageError::Limits(LimitError::from_kind(LimitErrorKind::InsufficientMemory))
        }
        other => ImageError::Decoding(DecodingError::new(ImageFormatHint::Exact(ImageFormat::Png), other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode_rgb8, save_png};

    const KEYWORD: &str = "parameters";

    fn picture() -> RgbImage {
        RgbImage::from_fn(20, 10, |x, y| image::Rgb([x * 12, y * 25, x + y].map(|v| v.to_le_bytes()[0])))
    }

    #[test]
    fn a_text_is_read_as_it_was_written_and_the_picture_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (plain, path) = (folder.path().join("plain.png"), folder.path().join("text.png"));
        save_png(&picture(), &plain).unwrap();
        let all_of_latin1: String = (1..=0xff_u8).map(char::from).collect();
        for (text, kind) in [
            ("", b"tEXt"),
            ("a red circle\nSteps: 20", b"tEXt"),
            ("café", b"tEXt"),
            (&all_of_latin1, b"tEXt"),
            ("中文 \u{1f600}\n", b"iTXt"),
        ] {
            save_png_with_text(&picture(), KEYWORD, text, &path).unwrap();
            assert_eq!(read_png_text(&path, KEYWORD).unwrap().as_deref(), Some(text));
            assert_eq!(decode_rgb8(&path).unwrap(), picture());
            let [plain, with_text] = [&plain, &path].map(|path| std::fs::read(path).unwrap());
            // Signature and header, a chunk's length and its kind.
            assert_eq!(&with_text[33 + 4..33 + 8], kind, "{text:?}");
            assert!(with_text.ends_with(&plain[33..]));
        }
        assert_eq!(read_png_text(&path, "Comment").unwrap(), None);
        assert_eq!(read_png_text(&plain, KEYWORD).unwrap(), None);
    }

    #[test]
    fn a_text_that_is_too_long_is_an_error_that_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long.png");
        save_png_with_text(&picture(), KEYWORD, &"x".repeat(MAX_TEXT_BYTES + 1), &path).unwrap();
        assert!(matches!(read_png_text(&path, KEYWORD), Err(DataError::TextTooLong { .. })));
        save_png_with_text(&picture(), KEYWORD, &"x".repeat(2 * MAX_METADATA_BYTES), &path).unwrap();
        assert!(matches!(read_png_text(&path, KEYWORD), Err(DataError::Decode { .. })));
    }

    #[test]
    fn a_text_that_unpacks_to_more_than_memory_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bomb.png");
        let mut encoder = Encoder::new(File::create(&path).unwrap(), 1, 1);
        encoder.add_ztxt_chunk(KEYWORD.to_owned(), "x".repeat(64 << 20)).unwrap();
        encoder.write_header().unwrap().write_image_data(&[0]).unwrap();
        assert!(path.metadata().unwrap().len() < 1 << 20);
        assert!(matches!(read_png_text(&path, KEYWORD), Err(DataError::Decode { .. })));
    }

    #[test]
    fn cut_and_changed_files_are_errors_or_read_but_never_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.png");
        save_png_with_text(&picture(), KEYWORD, "中文", &path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            let _ = read_png_text(&path, KEYWORD);
            let mut changed = whole.clone();
            changed[len] ^= 0x55;
            std::fs::write(&path, changed).unwrap();
            let _ = read_png_text(&path, KEYWORD);
        }
        assert!(matches!(read_png_text(folder.path(), KEYWORD), Err(DataError::MissingFile { .. })));
    }
}
