//! Files to 8-bit RGB images, whatever they are and however damaged.

use std::borrow::Cow;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use image::error::{LimitError, LimitErrorKind};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, ImageResult, Limits, RgbImage};

use crate::content::Content;
use crate::error::DataError;

/// The longest side that is decoded, and that an image is resized to.
pub(crate) const MAX_IMAGE_SIDE: u32 = 32_768;
/// Memory for one decoded image: an RGB image of 13,000 x 13,000 px fits, a decompression bomb does not.
const MAX_IMAGE_BYTES: u64 = 512 << 20;

/// Decodes png, jpeg, webp, bmp, tiff or gif to RGB, told apart by content, not by name.
///
/// The EXIF orientation is applied. Alpha is dropped, not composited, and greyscale becomes three equal
/// channels, as Pillow's `convert("RGB")` does. 16-bit values are scaled by 255/65535 and rounded, where Pillow
/// cuts off the low byte. Of an animation the first frame is used.
///
/// # Errors
/// An unreadable, damaged or foreign file, and one that is larger than 32,768 px or 512 MiB.
pub fn decode_rgb8(path: &Path) -> Result<RgbImage, DataError> {
    Content::File(path.to_owned()).decode_rgb8()
}

impl Content {
    /// Decodes the picture as [`decode_rgb8`] does.
    ///
    /// # Errors
    /// As [`decode_rgb8`], and what [`Self::read`] fails with.
    pub fn decode_rgb8(&self) -> Result<RgbImage, DataError> {
        EncodedPicture::read(self)?.decode()
    }
}

/// A picture as it is in its file.
pub(crate) struct EncodedPicture<'a> {
    content: &'a Content,
    bytes: Arc<[u8]>,
}

impl<'a> EncodedPicture<'a> {
    /// As [`Content::read`].
    pub(crate) fn read(content: &'a Content) -> Result<Self, DataError> {
        Ok(Self { content, bytes: content.read()? })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_bytes(self) -> Arc<[u8]> {
        self.bytes
    }

    /// As [`decode_rgb8`].
    pub(crate) fn decode(&self) -> Result<RgbImage, DataError> {
        self.guarded(|decoder, orientation| {
            let mut image = DynamicImage::from_decoder(decoder)?;
            image.apply_orientation(orientation);
            Ok(image.into_rgb8())
        })
    }

    /// Width and height of what [`Self::decode`] gives, from the file's header alone.
    pub(crate) fn dimensions(&self) -> Result<(u32, u32), DataError> {
        self.guarded(|decoder, orientation| {
            let (width, height) = decoder.dimensions();
            Ok(match orientation {
                Orientation::Rotate90
                | Orientation::Rotate270
                | Orientation::Rotate90FlipH
                | Orientation::Rotate270FlipH => (height, width),
                _ => (width, height),
            })
        })
    }

    fn guarded<T>(
        &self,
        use_decoder: impl FnOnce(Decoder<'_>, Orientation) -> ImageResult<T>,
    ) -> Result<T, DataError> {
        let result = catch_unwind(AssertUnwindSafe(|| {
            let bytes = without_compressed_texts(&self.bytes);
            let mut decoder = decoder(&bytes)?;
            // The limits of a decoder are for what it takes beside the picture.
            if decoder.total_bytes() > MAX_IMAGE_BYTES {
                let kind = LimitErrorKind::InsufficientMemory;
                return Err(ImageError::Limits(LimitError::from_kind(kind)));
            }
            // A damaged EXIF block says nothing about the pixels.
            let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
            use_decoder(decoder, orientation)
        }));
        match result {
            Ok(result) => {
                result.map_err(|source| DataError::Decode { picture: self.content.to_string(), source })
            }
            Err(panic) => Err(DataError::DecoderPanicked {
                picture: self.content.to_string(),
                message: panic_message(&*panic),
            }),
        }
    }
}

/// A PNG file without the chunks that unpack to anything, however small they are: texts and the colour profile, none of
/// which is used. Other files are left as they are.
///
/// Source: PNG specification, third edition, sections 5.3 and 11.3.
fn without_compressed_texts(bytes: &[u8]) -> Cow<'_, [u8]> {
    const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
    const COMPRESSED: [&[u8]; 3] = [b"iCCP", b"zTXt", b"iTXt"];
    let Some(mut rest) = bytes.strip_prefix(SIGNATURE) else { return Cow::Borrowed(bytes) };
    let mut kept: Vec<&[u8]> = vec![SIGNATURE];
    let mut has_any = false;
    // Length, kind, data, checksum; what is no chunk is for the decoder to refuse.
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let Some((chunk, behind_it)) =
            length.checked_add(12).and_then(|length| rest.split_at_checked(length))
        else {
            break;
        };
        if COMPRESSED.iter().any(|kind| behind.starts_with(kind)) {
            has_any = true;
        } else {
            kept.push(chunk);
        }
        rest = behind_it;
    }
    kept.push(rest);
    if has_any { Cow::Owned(kept.concat()) } else { Cow::Borrowed(bytes) }
}

type Decoder<'a> = Box<dyn ImageDecoder + 'a>;

fn decoder(bytes: &[u8]) -> ImageResult<Decoder<'_>> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_IMAGE_SIDE);
    limits.max_image_height = Some(MAX_IMAGE_SIDE);
    limits.max_alloc = Some(MAX_IMAGE_BYTES);

    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    reader.limits(limits);
    Ok(Box::new(reader.into_decoder()?))
}

/// The text that a panic was raised with.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::path::PathBuf;

    use image::{ImageBuffer, Luma, Rgba};
    use tempfile::TempDir;

    use super::*;

    fn saved(image: impl Into<DynamicImage>) -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.png");
        image.into().save(&path).unwrap();
        (dir, path)
    }

    #[test]
    fn alpha_is_dropped_and_not_composited() {
        let (_dir, path) = saved(ImageBuffer::from_pixel(3, 2, Rgba([200_u8, 100, 50, 0])));
        assert_eq!(decode_rgb8(&path).unwrap().get_pixel(0, 0).0, [200, 100, 50]);
    }

    #[test]
    fn sixteen_bits_are_scaled_to_eight() {
        let (_dir, path) =
            saved(ImageBuffer::from_fn(3, 1, |x, _| Luma([[0_u16, 32_896, 65_535][x as usize]])));
        let greys: Vec<u8> = decode_rgb8(&path).unwrap().pixels().map(|pixel| pixel.0[2]).collect();
        assert_eq!(greys, [0, 128, 255]);
    }

    #[test]
    fn truncated_file_is_an_error_at_every_length() {
        let noise =
            |x: u32, y: u32| image::Rgb([0, 1, 2].map(|c| (x * 97 + y * 57 + c * 31).to_le_bytes()[0]));
        let picture = DynamicImage::from(RgbImage::from_fn(40, 30, noise));
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.png", "a.jpg", "a.webp", "a.bmp", "a.tiff"] {
            let path = dir.path().join(name);
            picture.save(&path).unwrap();
            assert!(decode_rgb8(&path).is_ok(), "{name}");
            let bytes = std::fs::read(&path).unwrap();
            for sixteenth in 0..8 {
                std::fs::write(&path, &bytes[..bytes.len() * sixteenth / 16]).unwrap();
                // A jpeg that breaks off in the middle of its pixels is shown by every viewer.
                let is_decoded = decode_rgb8(&path).is_ok();
                assert!(!is_decoded || name == "a.jpg", "{name} cut to {sixteenth}/16");
            }
        }
    }

    #[test]
    fn image_that_claims_to_be_huge_is_refused_before_memory_is_taken() {
        let (_dir, path) = saved(RgbImage::new(1, 1));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[16..24].copy_from_slice(&[0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0]); // 100,000 x 100,000
        let checksum = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
        std::fs::write(&path, bytes).unwrap();
        let error = decode_rgb8(&path).unwrap_err();
        assert!(
            matches!(&error, DataError::Decode { source: image::ImageError::Limits(_), .. }),
            "{error:?}"
        );
    }

    #[test]
    fn the_header_tells_the_dimensions_of_the_decoded_image() {
        // A JPEG of 5x3 px whose EXIF says that it is to be turned by 90 degrees.
        let (_dir, path) = saved(RgbImage::new(5, 3));
        let mut jpeg = Cursor::new(Vec::new());
        let image = DynamicImage::from(RgbImage::new(5, 3));
        image.write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
        let mut exif =
            b"\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0".to_vec();
        exif.extend([0; 4]);
        let turned = path.with_file_name("turned.jpg");
        let jpeg = jpeg.into_inner();
        std::fs::write(&turned, [&jpeg[..2], &exif, &jpeg[2..]].concat()).unwrap();
        for (path, expected) in [(path, (5, 3)), (turned, (3, 5))] {
            let content = Content::File(path);
            let file = EncodedPicture::read(&content).unwrap();
            assert_eq!(file.decode().unwrap().dimensions(), expected);
            assert_eq!(file.dimensions().unwrap(), expected);
        }
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
        })
    }

    #[test]
    fn error_names_the_file_and_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("note.png");
        std::fs::write(&path, "no image").unwrap();
        let error = decode_rgb8(&path).unwrap_err();
        assert!(error.to_string().contains("note.png"), "{error}");
        assert!(error.source().is_some() && error.hint().is_some());
        assert!(matches!(decode_rgb8(dir.path()), Err(DataError::MissingFile { .. })));
    }
}
