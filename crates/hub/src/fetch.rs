//! Files of a repository in the cache.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::cache::{Entry, is_safe};
use crate::error::HubError;
use crate::hash::ContentId;
use crate::http::{Call, Http, Subject, escaped, interrupted, shown, wait_or};
use crate::listing::{Listing, RemoteFile};
use crate::name::{Place, RepoKind, RepoName};
use crate::notice::Notice;
use crate::options::{HubOptions, Network, Waits};
use crate::select::{Chosen, Wanted, choose, data};
use crate::{Hub, Tell};

/// The branch to which the Hub converts data sets.
const CONVERTED: &str = "refs/convert/parquet";

/// The status of a server that has no such part of a file.
const RANGE_NOT_SATISFIABLE: u16 = 416;

/// The branch of everything, if no other is named.
const MAIN: &str = "main";

impl Hub {
    /// Brings what is wanted of a repository into the cache and returns the folder that has it.
    ///
    /// What is there and whole is not downloaded again. If the Hub cannot be reached, what an earlier run has
    /// brought is used.
    ///
    /// # Errors
    /// [`HubError`] says what is wrong with name, token, network, server or disk.
    pub fn fetch(
        &self,
        kind: RepoKind,
        name: &RepoName,
        revision: Option<&str>,
        wanted: &Wanted,
        tell: Tell<'_>,
    ) -> Result<PathBuf, HubError> {
        let revision_or_main = revision.unwrap_or(MAIN).to_owned();
        let place = Place { name: name.clone(), kind, revision: revision_or_main };
        if !is_safe(&place.revision) {
            return Err(HubError::NoRevision { name: place.name, revision: place.revision });
        }
        if self.options.network == Network::Offline {
            return self.converted_or(&place, revision, |place| self.cached(place, wanted));
        }
        match self.online(&place, revision, wanted, tell) {
            Err(why) if why.is_of_the_network() => {
                let cached = self.converted_or(&place, revision, |place| self.cached(place, wanted));
                let Ok(folder) = cached else { return Err(why) };
                tell(Notice::FromCache { name, why: &why });
                Ok(folder)
            }
            done => done,
        }
    }

    /// What is in the cache: the Hub's conversion of a data set, if that is what an earlier run has brought.
    fn converted_or(
        &self,
        place: &Place,
        revision: Option<&str>,
        of: impl Fn(&Place) -> Result<PathBuf, HubError>,
    ) -> Result<PathBuf, HubError> {
        let converted = Place { revision: CONVERTED.to_owned(), ..place.clone() };
        if place.kind == RepoKind::Dataset && revision.is_none() && self.entry(place).commit().is_none() {
            return of(&converted).or_else(|_| of(place));
        }
        of(place)
    }

    fn entry(&self, place: &Place) -> Entry {
        Entry::of(&self.options.cache_dir, place)
    }

    fn online(
        &self,
        place: &Place,
        revision: Option<&str>,
        wanted: &Wanted,
        tell: Tell<'_>,
    ) -> Result<PathBuf, HubError> {
        let listing = Listing::ask(&self.http, place, tell)?;
        if place.kind == RepoKind::Dataset
            && revision.is_none()
            && data::is_script(&place.name, &listing.paths())
        {
            // Scripts are not executed; the Hub may have done that.
            let converted = Place { revision: CONVERTED.to_owned(), ..place.clone() };
            match Listing::ask(&self.http, &converted, tell) {
                Ok(listing) => return self.download(&converted, &listing, wanted, tell),
                Err(HubError::NoRevision { .. } | HubError::NoRepo { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.download(place, &listing, wanted, tell)
    }

    /// What an earlier run has brought, if it is all there and whole.
    fn cached(&self, place: &Place, wanted: &Wanted) -> Result<PathBuf, HubError> {
        let entry = self.entry(place);
        let not_cached = || HubError::NotCached {
            name: place.name.clone(),
            revision: place.revision.clone(),
            cache: self.options.cache_dir.clone(),
        };
        let commit = entry.commit().ok_or_else(not_cached)?;
        // Of what another program has brought nobody noted what else there is; numbers in names say so of shards.
        let files = entry.noted_listing(&commit).map_or_else(|| entry.files(&commit), Ok)?;
        let paths: Vec<&str> = files.iter().map(String::as_str).collect();
        let Chosen { paths, folder } = choose(wanted, &place.name, &paths)?;
        if !has_all_shards(&paths) || !paths.iter().all(|path| entry.has(&commit, path)) {
            return Err(not_cached());
        }
        for path in &paths {
            let is_right = match entry.content_of(&commit, path) {
                Some(id) => entry.is_right(&id)?,
                None => true,
            };
            if !is_right {
                return Err(HubError::DamagedCache { path: entry.snapshot(&commit).join(path) });
            }
        }
        Ok(entry.snapshot(&commit).join(folder))
    }

    fn download(
        &self,
        place: &Place,
        listing: &Listing,
        wanted: &Wanted,
        tell: Tell<'_>,
    ) -> Result<PathBuf, HubError> {
        let Chosen { paths, folder } = choose(wanted, &place.name, &listing.paths())?;
        let entry = self.entry(place);
        entry.note_listing(&listing.commit, &listing.paths());
        let mut missing = Vec::new();
        for file in listing.files.iter().filter(|file| paths.contains(&file.path)) {
            match &file.id {
                Some(id) if entry.is_right(id)? => entry.link(id, &listing.commit, &file.path)?,
                _ => missing.push(file),
            }
        }
        if !missing.is_empty() {
            let n_bytes = missing.iter().map(|file| still_missing(&entry, file)).sum();
            require_space(&self.options, n_bytes)?;
            tell(Notice::Begins { name: &place.name, n_files: missing.len(), n_bytes });
            let mut transfer =
                Transfer { http: &self.http, place, entry: &entry, commit: &listing.commit, n_done: 0, tell };
            for file in missing {
                transfer.fetch(file)?;
            }
            tell(Notice::Ends);
        }
        entry.set_commit(&listing.commit)?;
        Ok(entry.snapshot(&listing.commit).join(folder))
    }
}

/// The bytes of a file that no earlier attempt has left.
fn still_missing(entry: &Entry, file: &RemoteFile) -> u64 {
    let left = file.id.as_ref().and_then(|id| fs::metadata(entry.incomplete(id)).ok());
    file.n_bytes.unwrap_or(0).saturating_sub(left.map_or(0, |metadata| metadata.len()))
}

/// Whether of files such as `train-00000-of-00002.parquet` there are as many as their names say.
fn has_all_shards(paths: &[String]) -> bool {
    let mut n_found = BTreeMap::new();
    for path in paths {
        let Some((before, after)) = path.rsplit_once("-of-") else { continue };
        let Some((stem, number)) = before.rsplit_once('-') else { continue };
        let n_digits = after.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, ending) = after.split_at(n_digits);
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        if let Some(n_shards) = digits.parse::<usize>().ok().filter(|_| is_number) {
            *n_found.entry((stem, n_shards, ending)).or_insert(0) += 1;
        }
    }
    n_found.into_iter().all(|((_, n_shards, _), n)| n >= n_shards)
}

/// Refuses what cannot fit before the first byte.
fn require_space(options: &HubOptions, needed: u64) -> Result<(), HubError> {
    let dir = &options.cache_dir;
    fs::create_dir_all(dir).map_err(HubError::write(dir))?;
    let free = free_space(dir).unwrap_or(u64::MAX);
    if needed > free { Err(HubError::DiskFull { dir: dir.clone(), needed, free }) } else { Ok(()) }
}

#[cfg(unix)]
fn free_space(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

#[cfg(not(unix))]
fn free_space(_dir: &Path) -> Option<u64> {
    None
}

/// Files of one repository on their way.
struct Transfer<'a> {
    http: &'a Http,
    place: &'a Place,
    entry: &'a Entry,
    commit: &'a str,
    /// Bytes so far, of all files.
    n_done: u64,
    tell: Tell<'a>,
}

impl Transfer<'_> {
    /// Brings a file into the snapshot, whoever has it first.
    fn fetch(&mut self, file: &RemoteFile) -> Result<(), HubError> {
        let (id, n_bytes) = match (&file.id, file.n_bytes) {
            (Some(id), Some(n_bytes)) => (id.clone(), n_bytes),
            _ => self.identify(file)?,
        };
        let lock = self.entry.lock(&id)?;
        // Another process may have brought it while this one waited.
        if !self.entry.is_right(&id)? {
            let blob = self.entry.blob(&id);
            if blob.exists() {
                (self.tell)(Notice::Damaged { file: &file.path });
                fs::remove_file(&blob).map_err(HubError::write(&blob))?;
            }
            self.fill(&file.path, &id, n_bytes)?;
        }
        drop(lock);
        self.entry.link(&id, self.commit, &file.path)
    }

    fn url(&self, path: &str) -> String {
        let path = escaped(path, |byte| byte == b'/');
        format!("{}/{}/resolve/{}/{path}", self.http.endpoint, self.place.page(), self.commit)
    }

    /// What the headers of a file say of it, where the list does not.
    fn identify(&mut self, file: &RemoteFile) -> Result<(ContentId, u64), HubError> {
        let url = self.url(&file.path);
        let reply =
            self.http.send(&Call::get(url.clone(), Subject::File(self.place, &file.path)), self.tell)?;
        let tag = reply.header("x-linked-etag").or_else(|| reply.header("etag")).unwrap_or_default();
        let id = ContentId::parse(tag.trim_start_matches("W/").trim_matches('"'));
        let n_bytes = reply.header("x-linked-size").or_else(|| reply.header("content-length"));
        let n_bytes = n_bytes.and_then(|text| text.parse().ok());
        id.zip(n_bytes).ok_or_else(|| HubError::BadReply {
            url: shown(&url),
            why: "it does not say what hash and size the file has".to_owned(),
        })
    }

    /// Downloads a blob, from where an earlier attempt ended, until it is there or there is no hope.
    fn fill(&mut self, path: &str, id: &ContentId, n_bytes: u64) -> Result<(), HubError> {
        let incomplete = self.entry.incomplete(id);
        fs::create_dir_all(incomplete.parent().expect("a blob is in a folder"))
            .map_err(HubError::write(&incomplete))?;
        let mut has_begun_anew = false;
        loop {
            let begun_at = self.n_done;
            self.fill_once(path, n_bytes, &incomplete)?;
            let found = id.of_file(&incomplete).map_err(HubError::read(&incomplete))?;
            if found == id.as_str() {
                break;
            }
            // What an earlier attempt left may be what is wrong.
            fs::remove_file(&incomplete).map_err(HubError::write(&incomplete))?;
            if std::mem::replace(&mut has_begun_anew, true) {
                let (name, file) = (self.place.name.clone(), path.to_owned());
                return Err(HubError::WrongHash { name, file, expected: id.as_str().to_owned(), found });
            }
            self.n_done = begun_at;
        }
        let blob = self.entry.blob(id);
        fs::rename(&incomplete, &blob).map_err(HubError::write(&blob))?;
        self.entry.note_right(id);
        Ok(())
    }

    /// Downloads until all bytes are there, however often that takes as long as some arrive.
    fn fill_once(&mut self, path: &str, n_bytes: u64, incomplete: &Path) -> Result<(), HubError> {
        let mut waits = Waits::new(&self.http.patience);
        loop {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(incomplete);
            let mut file = file.map_err(HubError::write(incomplete))?;
            let there = file.metadata().map_err(HubError::read(incomplete))?.len();
            let begun_at = self.n_done;
            match self.stream(path, &mut file, there, n_bytes, incomplete) {
                Err(error) if error.is_passing() => {
                    if self.n_done > begun_at {
                        waits.restart();
                    }
                    wait_or(error, &mut waits, self.tell)?;
                }
                Err(error) => return Err(error),
                Ok(()) => return file.sync_all().map_err(HubError::write(incomplete)),
            }
        }
    }

    /// One answer's bytes, from `there` on, to the end of the file.
    fn stream(
        &mut self,
        path: &str,
        file: &mut File,
        mut there: u64,
        n_bytes: u64,
        incomplete: &Path,
    ) -> Result<(), HubError> {
        if there > n_bytes {
            there = self.begin_anew(file, 0, incomplete)?;
        }
        if there == n_bytes {
            return Ok(());
        }
        let url = self.url(path);
        let call = Call { from_byte: there, ..Call::get(url.clone(), Subject::File(self.place, path)) };
        let reply = match self.http.send_once(&call) {
            Err(HubError::Status { status: RANGE_NOT_SATISFIABLE, .. }) if there > 0 => {
                there = self.begin_anew(file, there, incomplete)?;
                self.http.send_once(&Call { from_byte: 0, ..call })?
            }
            reply => reply?,
        };
        let begins = format!("bytes {there}-");
        if there > 0 && !reply.header("content-range").is_some_and(|range| range.starts_with(&begins)) {
            // All of it comes.
            there = self.begin_anew(file, there, incomplete)?;
        }
        file.seek(SeekFrom::Start(there)).map_err(HubError::write(incomplete))?;
        let mut body = reply.into_reader();
        let mut buffer = vec![0; 1 << 16];
        while there < n_bytes {
            let n =
                body.read(&mut buffer).map_err(|error| interrupted(&url, error, self.http.patience.stall))?;
            if n == 0 {
                let file = path.to_owned();
                return Err(HubError::Truncated { file, received: there, expected: n_bytes });
            }
            // What is too much cannot be right, which its hash would show; it need not be stored.
            let n = n.min(usize::try_from(n_bytes - there).unwrap_or(usize::MAX));
            file.write_all(&buffer[..n]).map_err(HubError::write(incomplete))?;
            there += n as u64;
            self.n_done += n as u64;
            (self.tell)(Notice::Bytes { file: path, n_done: self.n_done });
        }
        Ok(())
    }

    /// Throws away what is there, of which `counted` bytes were counted; returns what is there then.
    fn begin_anew(&mut self, file: &File, counted: u64, incomplete: &Path) -> Result<u64, HubError> {
        file.set_len(0).map_err(HubError::write(incomplete))?;
        self.n_done = self.n_done.saturating_sub(counted);
        Ok(0)
    }
}
