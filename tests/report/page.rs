//! The page in a browser: headless Chromium, where there is one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pyrograph_report::{BatchPoint, ReportError, RunFacts, Section, write_bench, write_report};

use super::{HOSTILE, run_dir};

fn facts() -> RunFacts {
    let rows = vec![(HOSTILE.to_owned(), HOSTILE.to_owned())];
    RunFacts {
        title: format!("Circles {HOSTILE}"),
        sections: vec![Section { title: HOSTILE.to_owned(), rows }],
        config_toml: format!("# {HOSTILE}\nseed = 17\n"),
    }
}

/// The browser of this machine; says so where there is none.
#[expect(clippy::print_stderr, reason = "a skipped test says why")]
fn chromium() -> Option<PathBuf> {
    const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders)
        .flat_map(|folder| NAMES.map(|name| folder.join(name)))
        .find(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: no Chromium in PATH to open the report in");
    }
    found
}

/// Opens a page and lets its scripts run for five seconds of their own time.
fn open(chromium: &Path, page: &Path, args: &[String]) -> Output {
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new(chromium);
    command
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--force-device-scale-factor=1",
        ])
        .args(["--enable-logging=stderr", "--virtual-time-budget=5000", "--window-size=1280,3000"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(args)
        .arg(format!("file://{}", page.display()));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Asserts that neither a script nor the page's policy complained.
fn assert_no_complaint(output: &Output) {
    let log = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<&str> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn the_page_is_self_contained_and_holds_what_a_user_wrote_as_text() {
    let dir = run_dir();
    let path = write_report(dir.path(), &facts()).unwrap();
    let page = fs::read_to_string(path).unwrap();
    let loads =
        ["src=\"http", "href=\"http", "src=\"//", "href=\"//", "url(", "@import", "fetch(", "XMLHttpRequest"];
    for load in loads {
        assert!(!page.contains(load), "the page has `{load}`");
    }
    assert!(page.contains("default-src 'none'"));
    assert_eq!(page.matches("<script").count(), 3, "the data, uPlot and the report's own");
    assert_eq!(page.matches("</script").count(), 3);
    assert!(!page.contains("<img src=x"));
    assert!(page.contains("The hint took hold at step 20."));
    assert!(page.contains("seed = 17"));
}

#[test]
fn the_page_is_rewritten_as_a_whole() {
    let dir = run_dir();
    let path = write_report(dir.path(), &facts()).unwrap();
    let title = "Second".to_owned();
    assert_eq!(write_report(dir.path(), &RunFacts { title, ..facts() }).unwrap(), path);
    assert!(fs::read_to_string(&path).unwrap().contains("<h1>Second</h1>"));
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn a_folder_without_a_run_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = write_report(dir.path(), &facts()).unwrap_err();
    assert!(matches!(error, ReportError::Read { .. }), "{error}");
}

#[test]
fn a_browser_draws_every_chart_and_moves_the_pictures() {
    let Some(chromium) = chromium() else { return };
    let dir = run_dir();
    let path = write_report(dir.path(), &facts()).unwrap();
    // A reader goes to the second of five validations, then reads the first chart with the keyboard.
    let reader = r#"<script>addEventListener("load", () => {
        const slider = document.getElementById("step");
        slider.value = 1;
        slider.dispatchEvent(new Event("input"));
        const plot = document.querySelector(".plot");
        plot.dispatchEvent(new KeyboardEvent("keydown", { key: "End" }));
    });</script>"#;
    let read = dir.path().join("read.html");
    fs::write(&read, fs::read_to_string(&path).unwrap() + reader).unwrap();
    let output = open(&chromium, &read, &["--dump-dom".to_owned()]);
    assert_no_complaint(&output);
    let dom = String::from_utf8(output.stdout).unwrap();

    assert_eq!(dom.matches("<canvas").count(), 9);
    assert!(dom.contains("aria-valuetext=\"Step 10\""));
    let image = |kind: &str| {
        let tag = dom.split("<img ").find(|tag| tag.contains(&format!("data-kind=\"{kind}\""))).unwrap();
        tag.split_once("src=\"").unwrap().1.split_once('"').unwrap().0.to_owned()
    };
    let kinds = ["hint", "target", "before", "now"].map(image);
    assert!(kinds.iter().all(|address| address.starts_with("data:image/png;base64,")));
    assert!((1..4).all(|idx| !kinds[..idx].contains(&kinds[idx])), "four different pictures");
    let tooltip = dom.split_once("class=\"tooltip\"").unwrap().1;
    assert!(tooltip.contains("<b>Step 40</b>") && tooltip.contains("0.03 ± 0.001"), "{}", &tooltip[..300]);
}

#[test]
fn a_browser_draws_the_curves_of_a_benchmark() {
    let Some(chromium) = chromium() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bench.html");
    let points = [1, 4, 16].map(|images_per_step| BatchPoint {
        images_per_step,
        images_per_second: 30.0,
        fraction_of_matmul: 0.25,
        peak_bytes: Some(images_per_step << 30),
        device_bytes: None,
    });
    write_bench(&path, &facts(), &points).unwrap();
    let reader = r#"<script>addEventListener("load", () => {
        const plots = document.querySelectorAll(".plot");
        plots[plots.length - 1].dispatchEvent(new KeyboardEvent("keydown", { key: "End" }));
    });</script>"#;
    fs::write(&path, fs::read_to_string(&path).unwrap() + reader).unwrap();
    let output = open(&chromium, &path, &["--dump-dom".to_owned()]);
    assert_no_complaint(&output);
    let dom = String::from_utf8(output.stdout).unwrap();
    assert_eq!(dom.matches("<canvas").count(), 3, "speed, use and main memory");
    let tooltip = dom.split_once("class=\"tooltip\"").unwrap().1;
    assert!(tooltip.contains("<b>Batch of 16</b>") && tooltip.contains("16 GiB"), "{}", &tooltip[..300]);
}

#[test]
fn a_screenshot_shows_curves_and_pictures_in_light_and_dark() {
    let Some(chromium) = chromium() else { return };
    let dir = run_dir();
    let path = write_report(dir.path(), &facts()).unwrap();
    // What the page's style gives the curves of the charts, and the paper under them.
    for (scheme, ember, paper) in
        [(1, [0xc2, 0x41, 0x0c], [0xfa, 0xf8, 0xf5]), (0, [0xfb, 0x8a, 0x3c], [0x13, 0x11, 0x10])]
    {
        let shot = dir.path().join("shot.png");
        let args = [
            format!("--screenshot={}", shot.display()),
            format!("--blink-settings=preferredColorScheme={scheme}"),
        ];
        assert_no_complaint(&open(&chromium, &path, &args));
        let shot = image::open(&shot).unwrap().into_rgb8();
        let count = |color: [u8; 3]| shot.pixels().filter(|pixel| pixel.0 == color).count();
        assert!(count(paper) > 1_000_000, "{} pixels of paper", count(paper));
        assert!(count(ember) > 5_000, "{} pixels of curves and buttons", count(ember));
        assert!(count([40, 250, 0]) > 10_000, "{} pixels of the last picture", count([40, 250, 0]));
    }
}
