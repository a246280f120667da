//! What is refused, and what reads back.

use super::*;

fn tar_with(write: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    write(&mut builder);
    builder.into_inner().expect("memory takes every byte")
}

/// A header with a path that the tar crate itself would refuse to write.
fn raw_entry(path: &str, kind: EntryType) -> Vec<u8> {
    tar_with(|builder| {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(0);
        header.set_cksum();
        builder
            .append(&header, io::empty())
            .expect("memory takes every byte");
    })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).expect("memory takes every byte");
    encoder.finish().expect("memory takes every byte")
}

fn refusal(bytes: &[u8]) -> UnpackError {
    unpack(bytes, &UnpackLimits::default()).expect_err("refused")
}

#[test]
fn files_read_back_and_equal_files_pack_to_equal_bytes() {
    let long = format!("functions/{}/{}.py", "a".repeat(90), "b".repeat(90));
    let files = Files::from([
        ("service.toml".to_owned(), FileEntry::text("name")),
        (
            long,
            FileEntry {
                content: vec![7; 100_000],
                executable: true,
            },
        ),
    ]);
    let packed = pack(&files);
    assert_eq!(packed, pack(&files));
    assert_eq!(
        unpack(packed.as_slice(), &UnpackLimits::default()).expect("unpacked"),
        files
    );
}

#[test]
fn paths_that_escape_are_refused_packed_and_plain() {
    for path in ["../x", "a/../../x", "/etc/x", "a/./b", "a//b", "a\\..\\b"] {
        let plain = raw_entry(path, EntryType::Regular);
        assert!(matches!(refusal(&plain), UnpackError::Path { .. }), "{path}");
        assert!(
            matches!(refusal(&gzip(&plain)), UnpackError::Path { .. }),
            "{path}"
        );
    }
}

#[test]
fn links_and_devices_are_refused() {
    for kind in [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
    ] {
        assert!(
            matches!(refusal(&raw_entry("x", kind)), UnpackError::NotAFile { .. }),
            "{kind:?}"
        );
    }
}

#[test]
fn a_bomb_is_noticed_before_it_is_unpacked() {
    let bomb = pack(&Files::from([(
        "zeros".to_owned(),
        FileEntry {
            content: vec![0; 40 << 20],
            executable: false,
        },
    )]));
    assert!(bomb.len() < 1 << 20);
    assert!(matches!(refusal(&bomb), UnpackError::Bomb { .. }));
}

#[test]
fn bytes_and_entries_are_bounded() {
    let files: Files = (0..20)
        .map(|at| (format!("{at}"), FileEntry::text("x")))
        .collect();
    let packed = pack(&files);
    let few = UnpackLimits {
        entries_max: 19,
        ..UnpackLimits::default()
    };
    assert!(matches!(
        unpack(packed.as_slice(), &few),
        Err(UnpackError::TooManyEntries { .. })
    ));
    let small = UnpackLimits {
        bytes_max: 4_096,
        ..UnpackLimits::default()
    };
    assert!(matches!(
        unpack(packed.as_slice(), &small),
        Err(UnpackError::TooLarge { .. })
    ));
}

#[test]
fn garbage_and_cut_archives_are_malformed_and_an_empty_one_is_empty() {
    assert!(matches!(
        refusal(b"hello, this is no archive at all, whatever its name says"),
        UnpackError::Malformed { .. }
    ));
    let packed = pack(&Files::from([(
        "a".to_owned(),
        FileEntry {
            content: (0..=255).collect(),
            executable: false,
        },
    )]));
    assert!(matches!(
        refusal(&packed[..packed.len() / 2]),
        UnpackError::Malformed { .. }
    ));
    assert!(
        unpack(io::empty(), &UnpackLimits::default())
            .expect("empty")
            .is_empty()
    );
}

#[test]
fn one_path_twice_or_as_file_and_folder_is_refused() {
    let twice = tar_with(|builder| {
        for path in ["a", "a"] {
            let mut header = Header::new_gnu();
            header.set_size(0);
            builder
                .append_data(&mut header, path, io::empty())
                .expect("memory takes every byte");
        }
    });
    assert!(matches!(refusal(&twice), UnpackError::Path { .. }));
    let both = pack(&Files::from([
        ("a".to_owned(), FileEntry::text("")),
        ("a/b".to_owned(), FileEntry::text("")),
    ]));
    assert!(matches!(refusal(&both), UnpackError::Path { .. }));
}

#[test]
fn archives_written_by_tar_with_a_dot_prefix_are_understood() {
    let dotted = tar_with(|builder| {
        let mut folder = Header::new_gnu();
        folder.set_entry_type(EntryType::Directory);
        folder.set_size(0);
        builder
            .append_data(&mut folder, "./", io::empty())
            .expect("memory takes every byte");
        let mut header = Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o755);
        builder
            .append_data(&mut header, "./rules/a.rules", b"x".as_slice())
            .expect("memory takes every byte");
    });
    let files = unpack(dotted.as_slice(), &UnpackLimits::default()).expect("unpacked");
    assert_eq!(files.keys().collect::<Vec<_>>(), ["rules/a.rules"]);
    assert!(files["rules/a.rules"].executable);
}
