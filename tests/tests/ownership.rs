//! One process owns a data folder.

use celesta_tests::{Server, celesta};

#[test]
fn a_second_process_on_the_same_data_is_told_who_has_it() {
    let server = Server::start();
    let data = server.data();
    let data = data.to_str().expect("a path of text");
    let said = celesta(
        server.folder(),
        &["serve", "--listen", "127.0.0.1:0", "--data", data],
    );
    assert_eq!(said.code, 4, "{said:?}");
    assert!(
        said.stderr.contains(&format!("process {}", server.pid)),
        "{said:?}"
    );
}

#[test]
fn an_orderly_stop_ends_well_and_the_data_can_be_used_again() {
    let mut server = Server::start();
    assert_eq!(server.terminate(), 0);
    server.restart();
    assert_eq!(server.terminate(), 0);
}
