//! The client against a server on this machine: what it brings, what it withstands, and what it never sends.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pyrograph_hub::{
    Cached, Hub, HubError, HubOptions, Network, Notice, Patience, Pickles, Push, PushFile, RepoKind,
    RepoName, Token, Visibility, Wanted,
};
use tempfile::TempDir;

use crate::server::{COMMIT, Fault, Server, TOKEN, sha256};

const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// A server with one ControlNet, and an empty cache.
struct Desk {
    server: Server,
    dir: TempDir,
    weights: Vec<u8>,
    token: Option<&'static str>,
    network: Network,
}

impl Desk {
    fn new() -> Self {
        let server = Server::start();
        let weights: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        server.add("models/org/net", "config.json", "{}");
        server.add("models/org/net", WEIGHTS, weights.clone());
        server.add("models/org/net", "README.md", "# A net");
        Self { server, dir: tempfile::tempdir().unwrap(), weights, token: None, network: Network::Online }
    }

    fn hub(&self) -> Hub {
        Hub::new(HubOptions {
            endpoint: self.server.hub.clone(),
            token: self.token.and_then(Token::new),
            network: self.network,
            patience: Patience {
                stall: Duration::from_millis(300),
                n_retries: 3,
                first_wait: Duration::from_millis(10),
                ..Patience::default()
            },
            ..HubOptions::new(self.dir.path().to_owned())
        })
        .unwrap()
    }

    fn fetch_of(&self, name: &str, revision: Option<&str>) -> Result<PathBuf, HubError> {
        let wanted = Wanted::Part { folder: "controlnet", variant: None, pickles: Pickles::Refused };
        self.hub().fetch(RepoKind::Model, &RepoName::parse(name).unwrap(), revision, &wanted, &mut |_| ())
    }

    fn fetch(&self) -> Result<PathBuf, HubError> {
        self.fetch_of("org/net", None)
    }

    /// Asserts that the model arrives, whatever goes wrong with its weights on the way.
    #[track_caller]
    fn survives(path: &str, faults: impl IntoIterator<Item = Fault>) -> Self {
        let desk = Self::new();
        desk.server.fail(path, faults);
        let folder = desk.fetch().unwrap();
        assert!(fs::read(folder.join(WEIGHTS)).unwrap() == desk.weights);
        desk
    }

    fn weights_path(&self) -> String {
        sha256(&self.weights)
    }

    /// Asserts that an error is one line and has a hint, and that the cache has nothing that could be taken for the file.
    #[track_caller]
    fn refuses(&self, result: Result<PathBuf, HubError>, message: &str, hint: &str) {
        tells(result, message, hint);
        assert!(!self.dir.path().join("models--org--net/blobs").join(self.weights_path()).exists());
    }
}

/// Asserts that an error is one line and has a hint.
#[track_caller]
fn tells(result: Result<PathBuf, HubError>, message: &str, hint: &str) {
    let error = result.expect_err(message);
    let text = error.to_string();
    assert!(text.contains(message) && !text.contains('\n'), "{text}");
    let found = error.hint().unwrap_or_default();
    assert!(found.contains(hint), "{found}");
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn only_the_needed_files_arrive_in_the_layout_of_the_shared_cache() {
    let desk = Desk::new();
    let folder = desk.fetch().unwrap();
    let root = desk.dir.path().join("models--org--net");
    assert_eq!(folder, root.join("snapshots").join(COMMIT));
    assert_eq!(names(&folder), ["config.json", WEIGHTS]);
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    let oid = sha256(&desk.weights);
    assert_eq!(fs::read_link(folder.join(WEIGHTS)).unwrap(), Path::new("../../blobs").join(&oid));
    assert_eq!(
        names(&root.join("blobs")),
        [oid, server::git_sha1(b"{}")]
            .map(|name| name)
            .into_iter()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
    );
    let cached = Cached::of(&folder).unwrap();
    assert_eq!((cached.name.as_str(), &*cached.commit), ("org/net", COMMIT));
}

#[test]
fn what_is_there_is_not_downloaded_again_and_what_is_damaged_is() {
    let desk = Desk::new();
    let folder = desk.fetch().unwrap();
    desk.server.forget();
    desk.fetch().unwrap();
    assert_eq!(desk.server.resolved(), Vec::<String>::new());

    let blob = folder.join(WEIGHTS).canonicalize().unwrap();
    fs::write(&blob, &desk.weights[..1000]).unwrap();
    let mut damaged = Vec::new();
    let wanted = Wanted::Part { folder: "controlnet", variant: None, pickles: Pickles::Refused };
    let name = RepoName::parse("org/net").unwrap();
    let mut tell = |notice: Notice<'_>| {
        if let Notice::Damaged { file } = notice {
            damaged.push(file.to_owned());
        }
    };
    desk.hub().fetch(RepoKind::Model, &name, None, &wanted, &mut tell).unwrap();
    assert_eq!(damaged, [WEIGHTS]);
    assert!(fs::read(blob).unwrap() == desk.weights);
}

#[test]
fn a_download_goes_on_where_it_ended() {
    let path = Desk::new().weights_path();
    let desk = Desk::survives(&path, [Fault::Cut(300_000), Fault::Cut(300_000)]);
    let ranges: Vec<_> = desk
        .server
        .seen()
        .iter()
        .filter(|seen| seen.host == "storage")
        .map(|seen| seen.headers.get("range").cloned())
        .collect();
    assert_eq!(ranges, [None, Some("bytes=300000-".to_owned()), Some("bytes=600000-".to_owned())]);

    // Of an earlier process, too, whose beginning may be wrong.
    for (left, n_requests) in [(&desk.weights[..1000], 1), (&[7; 1000][..], 2), (&vec![7; 900_000][..], 1)] {
        let desk = Desk::new();
        let blobs = desk.dir.path().join("models--org--net/blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(format!("{path}.incomplete")), left).unwrap();
        let folder = desk.fetch().unwrap();
        assert!(fs::read(folder.join(WEIGHTS)).unwrap() == desk.weights);
        let requests = desk.server.seen().iter().filter(|seen| seen.host == "storage").count();
        assert_eq!(requests, n_requests, "{} bytes left", left.len());
    }
}

#[test]
fn passing_faults_are_waited_for() {
    let path = &Desk::new().weights_path();
    Desk::survives(path, [Fault::Status(503, &[]), Fault::Status(500, &[])]);
    Desk::survives(path, [Fault::Stall(1000)]);
    Desk::survives(path, [Fault::Cut(0), Fault::Cut(500_000), Fault::WholeBody]);
    Desk::survives(path, [Fault::Flip]);
    Desk::survives("/revision/", [Fault::Status(502, &[]), Fault::Cut(3)]);
    let start = Instant::now();
    Desk::survives("/revision/", [Fault::Status(429, &[("Retry-After", "1")])]);
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[test]
fn faults_that_do_not_pass_are_one_line_with_a_hint_and_leave_no_file() {
    let always = |fault: Fault| std::iter::repeat_n(fault, 99);
    let failing = |path: &str, fault: Fault| {
        let desk = Desk::new();
        desk.server.fail(path, always(fault));
        let result = desk.fetch();
        (desk, result)
    };
    let path = &Desk::new().weights_path();
    let (desk, result) = failing(path, Fault::Flip);
    desk.refuses(result, "was not received as it is in `org/net`", "nothing of it was kept");
    let (desk, result) = failing(path, Fault::Cut(0));
    desk.refuses(result, "cannot reach", "run the same command again");
    let (desk, result) = failing(path, Fault::Stall(0));
    desk.refuses(result, "is silent for 0.3 s", "run the same command again");
    let (desk, result) = failing("/revision/", Fault::Status(503, &[]));
    desk.refuses(result, "answers with status 503", "run the same command again");
    let (desk, result) = failing("/revision/", Fault::Status(429, &[]));
    desk.refuses(result, "refuses further requests", "HF_TOKEN");
    let (desk, result) = failing(WEIGHTS, Fault::Loop);
    desk.refuses(result, "redirects without end", "HF_ENDPOINT");
    let (desk, result) = failing(WEIGHTS, Fault::Status(302, &[("Location", "file:///etc/passwd")]));
    desk.refuses(result, "redirects without end or to nowhere", "HF_ENDPOINT");
    let (desk, result) = failing(WEIGHTS, Fault::Status(404, &[("X-Error-Code", "EntryNotFound")]));
    desk.refuses(result, "has no file `diffusion_pytorch_model.safetensors`", "run the same command again");
}

#[test]
fn refusals_say_what_to_do() {
    let mut desk = Desk::new();
    desk.server.hide("models/org/net");
    desk.refuses(desk.fetch(), "`org/net` is private or does not exist", "HF_TOKEN");
    desk.refuses(
        desk.fetch_of("org/nothing", None),
        "`org/nothing` is private or does not exist",
        "check the name",
    );
    desk.token = Some("hf_wrong");
    desk.refuses(desk.fetch(), "does not know the token", "set HF_TOKEN to a valid token");
    desk.token = Some("hf wrong");
    desk.refuses(desk.fetch(), "has characters that no token has", "HF_TOKEN");
    desk.token = Some(TOKEN);
    desk.refuses(desk.fetch_of("org/nothing", None), "there is no model `org/nothing`", "check the name");
    desk.refuses(desk.fetch_of("org/net", Some("v9")), "has no revision `v9`", "--revision");
    desk.refuses(desk.fetch_of("org/net", Some("../../x")), "has no revision", "--revision");
    desk.server.gate("models/org/net");
    desk.refuses(
        desk.fetch(),
        "access to `org/net` must be asked for",
        &format!("open {}/org/net", desk.server.hub),
    );
    desk.token = None;
    let open = Desk::new();
    open.server.gate("models/org/net");
    open.refuses(open.fetch(), "must be asked for", "then set HF_TOKEN");
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let mut desk = Desk::new();
    desk.token = Some(TOKEN);
    desk.server.hide("models/org/net");
    desk.fetch().unwrap();
    let seen = desk.server.seen();
    let authorized = |host: &str| -> Vec<bool> {
        seen.iter()
            .filter(|seen| seen.host == host)
            .map(|seen| seen.headers.contains_key("authorization"))
            .collect()
    };
    assert!(authorized("hub").iter().all(|is| *is));
    assert_eq!(authorized("storage"), [false]);
    assert!(!format!("{:?}", desk.hub()).contains(TOKEN));
}

#[test]
fn without_a_network_the_cache_is_enough_if_it_is_whole() {
    let mut desk = Desk::new();
    let folder = desk.fetch().unwrap();
    desk.network = Network::Offline;
    desk.server.forget();
    assert_eq!(desk.fetch().unwrap(), folder);
    assert_eq!(desk.fetch_of("org/net", Some(COMMIT)).unwrap(), folder);
    assert!(desk.server.seen().is_empty());
    let missing = desk.fetch_of("org/other", None).unwrap_err();
    assert!(missing.to_string().contains("`org/other` at `main` is not in the cache"), "{missing}");

    // The Hub may just be out of reach.
    desk.network = Network::Online;
    desk.server.fail("/revision/", std::iter::repeat_n(Fault::Status(500, &[]), 9));
    assert_eq!(desk.fetch().unwrap(), folder);

    desk.network = Network::Offline;
    fs::write(folder.join(WEIGHTS).canonicalize().unwrap(), "cut").unwrap();
    let damaged = desk.fetch().unwrap_err();
    assert!(damaged.to_string().ends_with("in the cache is damaged"), "{damaged}");
}

#[test]
fn a_network_that_is_not_there_is_told_at_once_and_one_that_may_not_be_asked_sooner() {
    let desk = Desk::new();
    let folder = desk.fetch().unwrap();
    let hub = |endpoint: &str, network: Network| {
        let endpoint = endpoint.to_owned();
        Hub::new(HubOptions { endpoint, network, ..HubOptions::new(desk.dir.path().to_owned()) }).unwrap()
    };
    let wanted = Wanted::Part { folder: "controlnet", variant: None, pickles: Pickles::Refused };
    let fetch = |endpoint: &str, name: &str| {
        let mut waits = Vec::new();
        let mut tell = |notice: Notice<'_>| {
            if let Notice::Waits { wait, .. } = notice {
                waits.push(wait);
            }
        };
        let result = hub(endpoint, Network::Online).fetch(
            RepoKind::Model,
            &RepoName::parse(name).unwrap(),
            None,
            &wanted,
            &mut tell,
        );
        (result, waits)
    };
    // Nobody listens there any more; somebody who does has no certificate.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let closed = format!("http://127.0.0.1:{port}");
    for endpoint in [&closed, &desk.server.hub.replace("http:", "https:")] {
        let (result, waits) = fetch(endpoint, "org/other");
        tells(result, &format!("no connection to `{endpoint}/"), "check the network");
        assert_eq!(waits, [Duration::from_millis(500); 2]);
    }
    let (result, _) = fetch(&closed, "org/net");
    assert_eq!(result.unwrap(), folder, "the cache is enough");
    let error = hub(&closed, Network::Offline).user(&mut |_| ()).unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }), "{error}");
}

#[test]
fn a_list_without_hashes_is_completed_by_headers() {
    let desk = Desk::new();
    desk.server.leave_out_hashes();
    let folder = desk.fetch().unwrap();
    assert!(fs::read(folder.join(WEIGHTS)).unwrap() == desk.weights);
}

#[test]
fn paths_that_would_leave_the_cache_are_refused() {
    let desk = Desk::new();
    desk.server.add("models/org/net", "../../evil", "x");
    desk.refuses(desk.fetch(), "`../../evil` is no path of a file", "HF_ENDPOINT");
}

#[test]
fn two_at_once_bring_it_once() {
    let desk = Desk::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| desk.fetch().unwrap());
        }
    });
    let mut resolved = desk.server.resolved();
    resolved.sort();
    assert_eq!(resolved, ["config.json", WEIGHTS]);
}

#[test]
fn a_data_set_of_a_script_is_taken_as_the_hub_has_converted_it() {
    let desk = Desk::new();
    let fetch = || {
        let wanted = Wanted::Dataset { config: None, split: "train".to_owned() };
        let name = RepoName::parse("org/circles").unwrap();
        desk.hub().fetch(RepoKind::Dataset, &name, None, &wanted, &mut |_| ())
    };
    for file in ["circles.py", "train.jsonl", "images.zip", "conditioning_images.zip", "README.md"] {
        desk.server.add("datasets/org/circles", file, file);
    }
    assert_eq!(names(&fetch().unwrap()), ["conditioning_images.zip", "images.zip", "train.jsonl"]);
    desk.server.add("datasets/org/circles@refs/convert/parquet", "default/train/0000.parquet", "rows");
    desk.server.add("datasets/org/circles@refs/convert/parquet", "default/test/0000.parquet", "others");
    let folder = fetch().unwrap();
    assert!(folder.ends_with("default"), "{}", folder.display());
    assert_eq!(names(&folder.join("train")), ["0000.parquet"]);
    assert_eq!(names(&folder), ["train"]);
}

#[test]
fn a_push_is_one_commit_whose_large_files_are_in_the_storage() {
    for part_bytes in [None, Some(300_000)] {
        let mut desk = Desk::new();
        desk.token = Some(TOKEN);
        if let Some(n_bytes) = part_bytes {
            desk.server.ask_for_parts(n_bytes);
        }
        let files = [("README.md", &b"# Mine"[..]), (WEIGHTS, &desk.weights)].map(|(path, contents)| {
            let local = desk.dir.path().join(path);
            fs::write(&local, contents).unwrap();
            PushFile { local, path: path.to_owned() }
        });
        let name = RepoName::parse("me/mine").unwrap();
        let push = Push {
            name: &name,
            visibility: Visibility::Private,
            message: "End of training",
            files: files.to_vec(),
        };
        desk.server.fail("/preupload/", [Fault::Status(503, &[])]);
        let page = desk.hub().push(&push, &mut |_| ()).unwrap();
        assert_eq!(page, format!("{}/me/mine", desk.server.hub));
        let pushed = desk.server.pushed();
        assert_eq!(pushed["README.md"], b"# Mine");
        assert!(pushed[WEIGHTS] == desk.weights);
        let commits = desk.server.seen().iter().filter(|seen| seen.path.contains("/commit/")).count();
        assert_eq!(commits, 1);
        assert_eq!(desk.hub().user(&mut |_| ()).unwrap(), "me");
        let leaked = desk
            .server
            .seen()
            .iter()
            .any(|seen| seen.host == "storage" && seen.headers.contains_key("authorization"));
        assert!(!leaked);
    }
}

#[cfg(unix)]
#[test]
fn what_the_python_client_has_brought_is_taken() {
    // The files that `snapshot_download` of huggingface_hub 2.4.0 leaves.
    let mut desk = Desk::new();
    let root = desk.dir.path().join("models--org--net");
    let snapshot = root.join("snapshots").join(COMMIT);
    for folder in [&root.join("blobs"), &root.join("refs"), &snapshot] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(root.join("refs/main"), COMMIT).unwrap();
    let ids = [("config.json", server::git_sha1(b"{}")), (WEIGHTS, sha256(&desk.weights))];
    for (path, id) in &ids {
        let contents = if *path == WEIGHTS { &desk.weights[..] } else { b"{}" };
        fs::write(root.join("blobs").join(id), contents).unwrap();
        std::os::unix::fs::symlink(Path::new("../../blobs").join(id), snapshot.join(path)).unwrap();
    }
    assert_eq!(desk.fetch().unwrap(), snapshot);
    assert_eq!(desk.server.resolved(), Vec::<String>::new());
    desk.network = Network::Offline;
    assert_eq!(desk.fetch().unwrap(), snapshot);
}

#[test]
fn a_part_of_what_is_wanted_is_never_taken_for_all_of_it() {
    let mut desk = Desk::new();
    for path in [
        "data/test-00000-of-00001.parquet",
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
    ] {
        desk.server.add("datasets/org/rows", path, path);
    }
    let fetch = |desk: &Desk, split: &str| {
        let wanted = Wanted::Dataset { config: None, split: split.to_owned() };
        let name = RepoName::parse("org/rows").unwrap();
        desk.hub().fetch(RepoKind::Dataset, &name, None, &wanted, &mut |_| ())
    };
    // The branch is known from a split that is whole; of another one, the second shard does not arrive.
    fetch(&desk, "test").unwrap();
    desk.server.fail("train-00001", std::iter::repeat_n(Fault::Status(503, &[]), 99));
    let cut = fetch(&desk, "train").expect_err("one shard of two");
    assert!(cut.to_string().contains("status 503"), "{cut}");
    desk.network = Network::Offline;
    let offline = fetch(&desk, "train").expect_err("one shard of two");
    assert!(offline.to_string().contains("is not in the cache"), "{offline}");
    fetch(&desk, "test").unwrap();
    // Another program notes nothing but what the names say.
    let notes = desk.dir.path().join(".locks/datasets--org--rows");
    fs::remove_file(notes.join(format!("{COMMIT}.files"))).unwrap();
    fetch(&desk, "train").expect_err("one shard of two");
    fetch(&desk, "test").unwrap();
}
