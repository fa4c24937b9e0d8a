//! TFRecord framing: length, its checksum, the record, its checksum.
//!
//! Source: TensorFlow, `tensorflow/core/lib/io/record_writer.h` and `core/lib/hash/crc32c.h`.

/// A record as it stands in a file.
pub(super) fn frame(record: &[u8]) -> Vec<u8> {
    let length = (record.len() as u64).to_le_bytes();
    let mut framed = Vec::with_capacity(record.len() + 16);
    framed.extend(length);
    framed.extend(masked_crc(&length).to_le_bytes());
    framed.extend(record);
    framed.extend(masked_crc(record).to_le_bytes());
    framed
}

/// A checksum that is itself a harmless content: checksums of data that hold checksums are weak.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}
