//! The directory of one show: configurations and logs of its processes. Removed at the end unless it is kept.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// A directory that only this user can enter. Dropping it removes it with all that is in it.
#[derive(Debug)]
pub(super) struct Workspace {
    path: PathBuf,
    kept: bool,
}

impl Workspace {
    /// A new directory below the system's temporary one, named after this process.
    pub(super) fn create() -> io::Result<Self> {
        let base = std::env::temp_dir();
        let name = format!("outrigger-demo-{}", std::process::id());
        // One left behind by an earlier process of the same id may belong to somebody: take another name.
        for suffix in std::iter::once(String::new()).chain((2..).map(|number| format!("-{number}"))) {
            let path = base.join(format!("{name}{suffix}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path, kept: false }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display())));
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the directory in place at the end.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }

    /// Whether it stays.
    pub(super) fn is_kept(&self) -> bool {
        self.kept
    }

    /// Writes a configuration file; one of that name is replaced in one step, so that nobody reads half of it.
    pub(super) fn write(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let (path, draft) = (self.path.join(name), self.path.join(format!("{name}.new")));
        fs::write(&draft, text)?;
        fs::rename(&draft, &path)?;
        Ok(path)
    }

    /// Writes a new file that only this user can read.
    pub(super) fn write_secret(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes())?;
        Ok(path)
    }

    /// A new, empty log for a process called `name`; logs of earlier processes of that name stay.
    pub(super) fn log(&self, name: &str) -> io::Result<(PathBuf, File)> {
        let mut path = self.path.join(format!("{name}.log"));
        let mut number = 1;
        loop {
            match File::options().append(true).create_new(true).open(&path) {
                Ok(file) => return Ok((path, file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    number += 1;
                    path = self.path.join(format!("{name}.{number}.log"));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if !self.kept {
            // There is nobody left to tell, and a temporary directory that stays does no harm.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_is_private_and_goes_with_its_owner() {
        use std::os::unix::fs::PermissionsExt as _;
        let workspace = Workspace::create().unwrap();
        let path = workspace.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        workspace.write("client.yaml", "version: 1\n").unwrap();
        let secret = workspace.write_secret("key", "secret").unwrap();
        assert_eq!(fs::metadata(secret).unwrap().permissions().mode() & 0o777, 0o600);
        drop(workspace);
        assert!(!path.exists());
    }

    #[test]
    fn each_process_has_a_log_of_its_own() {
        let workspace = Workspace::create().unwrap();
        let (first, _) = workspace.log("api-1").unwrap();
        let (second, _) = workspace.log("api-1").unwrap();
        assert_ne!(first, second);
    }

    #[test]
    fn what_is_kept_stays() {
        let mut workspace = Workspace::create().unwrap();
        workspace.keep();
        let path = workspace.path().to_owned();
        drop(workspace);
        assert!(path.exists());
        fs::remove_dir(path).unwrap();
    }
}
