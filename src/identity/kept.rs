//! The directory in which a sidecar keeps its own identity over restarts: certificate, key, bundle and lists, which change
//! together. Each set is a directory of its own, and `current` leads to the one in force, so that no crash leaves a key
//! beside another's certificate.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::{
    FileError, IdentityFiles, PemFiles,
    ca::{self, CaError, Mode},
};

/// A directory, which need not exist.
#[derive(Clone, Debug)]
pub struct Kept(PathBuf);

impl Kept {
    /// In this directory.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// Where the certificate lies, for messages.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.0.join(CURRENT).join(CERTIFICATE)
    }

    /// What is kept; `None` if nothing is yet. Blocks.
    ///
    /// # Errors
    /// The first file that cannot be read.
    pub fn read(&self) -> Result<Option<PemFiles>, FileError> {
        let current = self.0.join(CURRENT);
        if !current.exists() {
            return Ok(None);
        }
        let files = IdentityFiles {
            cert: current.join(CERTIFICATE),
            key: current.join(KEY),
            ca: current.join(ROOTS),
            crl: Some(current.join(LISTS)),
        };
        files.read().map(Some)
    }

    /// Replaces what is kept as a whole. Blocks.
    ///
    /// # Errors
    /// [`CaError::File`]; what was kept is still there.
    pub fn write(&self, files: &PemFiles) -> Result<(), CaError> {
        ca::make_directory(&self.0)?;
        let sets: Vec<(u64, String)> = ca::names_in(&self.0)?
            .into_iter()
            .filter_map(|name| Some((name.strip_prefix(SET)?.parse().ok()?, name)))
            .collect();
        let number = sets.iter().map(|(number, _)| *number).max().unwrap_or(0).saturating_add(1);
        let name = format!("{SET}{number}");
        let set = self.0.join(&name);
        ca::make_directory(&set)?;
        ca::write(&set.join(KEY), &files.key, Mode::Private)?;
        ca::write(&set.join(CERTIFICATE), &files.chain, Mode::Public)?;
        ca::write(&set.join(ROOTS), &files.roots, Mode::Public)?;
        ca::write(&set.join(LISTS), &files.lists, Mode::Public)?;
        let current = self.0.join(CURRENT);
        self.point(&current, &name).map_err(|source| CaError::File {
            action: "write",
            path: current.clone(),
            source,
        })?;
        for (_, old) in sets {
            // Of no use any more; what cannot be removed now is tried again with the next set.
            let _ = fs::remove_dir_all(self.0.join(old));
        }
        Ok(())
    }

    fn point(&self, current: &Path, name: &str) -> io::Result<()> {
        let draft = self.0.join(".current.draft");
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(name, &draft)?;
        fs::rename(&draft, current)?;
        File::open(&self.0)?.sync_all()
    }
}

const CURRENT: &str = "current";
const SET: &str = "set-";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const ROOTS: &str = "ca.crt";
const LISTS: &str = "crl.pem";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_kept_changes_as_a_whole_and_leaves_no_old_key_behind() {
        let place = std::env::temp_dir().join(format!("outrigger-kept-{}", std::process::id()));
        let kept = Kept::new(&place.join("identity"));
        assert!(kept.read().unwrap().is_none());
        let files = |text: &str| {
            let part = |name: &str| format!("{name} {text}").into_bytes();
            PemFiles { chain: part("chain"), key: part("key"), roots: part("roots"), lists: part("lists") }
        };
        for text in ["first", "second", "third"] {
            kept.write(&files(text)).unwrap();
            assert!(kept.read().unwrap() == Some(files(text)));
        }
        let mut names: Vec<_> = fs::read_dir(place.join("identity"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["current", "set-3"]);
        let key = fs::metadata(place.join("identity/current/tls.key")).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
        fs::remove_dir_all(place).unwrap();
    }
}
