//! A mutation that bytes changed at random hardly ever find: a large number that is well-formed.

/// What programs that reckon with sizes trip over.
pub const NUMBERS: [&str; 12] = [
    "0",
    "1",
    "-1",
    "0.5",
    "65536",
    "2147483648",
    "4294967296",
    "4611686018427387904",
    "9223372036854775807",
    "18446744073709551615",
    "1e308",
    "null",
];

/// Puts one of [`NUMBERS`] in place of a number in `data`, which is text or has text in it; returns the new size, or
/// `None` if there is no number or no room.
pub fn put_number(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> Option<usize> {
    let is_digit = |idx: usize| data[idx].is_ascii_digit();
    let starts: Vec<usize> =
        (0..size).filter(|&idx| is_digit(idx) && (idx == 0 || !is_digit(idx - 1))).collect();
    let seed = seed as usize;
    let start = *starts.get(seed.checked_rem(starts.len())?)?;
    let end = (start..size).find(|&idx| !is_digit(idx)).unwrap_or(size);
    let number = NUMBERS[seed / starts.len() % NUMBERS.len()].as_bytes();
    let new_size = size - (end - start) + number.len();
    if new_size > max_size.min(data.len()) {
        return None;
    }
    data.copy_within(end..size, start + number.len());
    data[start..start + number.len()].copy_from_slice(number);
    Some(new_size)
}

/// A mutator for formats with numbers in text: every fourth mutation is [`put_number`].
#[macro_export]
macro_rules! fuzz_numbers {
    () => {
        libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            let put = (seed % 4 == 0).then(|| $crate::put_number(data, size, max_size, seed / 4)).flatten();
            put.unwrap_or_else(|| libfuzzer_sys::fuzzer_mutate(data, size, max_size))
        });
    };
}
