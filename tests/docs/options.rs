//! The reference of all options.

use expect_test::expect_file;

#[test]
fn the_reference_of_options_is_what_the_program_has() {
    expect_file!["../../docs/options.md"].assert_eq(&pyrograph::options_reference());
}
