//! One process owns a data folder: its queue and its store are in that process' memory.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use crate::exit::{Exit, Failure};

/// The ownership of a data folder; it ends with the process, however that ends.
#[derive(Debug)]
pub(crate) struct DataLock {
    _file: File,
}

impl DataLock {
    /// Takes the folder, which is created when it does not exist.
    ///
    /// # Errors
    /// When another process has it: the message names that process.
    pub(crate) fn take(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join("lock");
        let failed = |error: std::io::Error| Failure::file("use", &path, &error);
        std::fs::create_dir_all(folder).map_err(failed)?;
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(taken(folder, &mut file)),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn taken(folder: &Path, file: &mut File) -> Failure {
    let mut owner = String::new();
    // Without a number the message is less helpful, and still true.
    file.read_to_string(&mut owner).ok();
    let owner = owner.trim();
    let who = if owner.is_empty() {
        "another process".to_owned()
    } else {
        format!("process {owner}")
    };
    Failure::new(
        Exit::Conflict,
        format!("{who} is using the data in {}", folder.display()),
    )
    .hint("stop it, or choose another folder with --data")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner_at_a_time() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let first = DataLock::take(folder.path()).expect("nobody has it");
        let refused = DataLock::take(folder.path()).expect_err("somebody has it");
        assert_eq!(refused.exit, Exit::Conflict);
        assert!(
            refused.message.contains(&std::process::id().to_string()),
            "{refused}"
        );
        drop(first);
        DataLock::take(folder.path()).expect("nobody has it again");
    }
}
