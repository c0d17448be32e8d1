//! Copies of a store: what is no copy is refused, and a store that goes on with one has what was in it.

use super::*;
use crate::store::recover::tests::{Folder, Server, WHOSE, inspected};

#[tokio::test]
async fn a_store_goes_on_with_what_was_in_the_file_and_not_with_what_came_after() {
    let (folder, keys) = (Folder::new("restored"), StoreKeys::default());
    let server = Server::start(&folder, &keys).await;
    server.put("a").await;
    let before = server.put("b").await;
    let embedded = server.store.embedded().unwrap().clone();
    let bytes = embedded.archive(Level::Strong).await.unwrap();
    let archive = Archive::read(&bytes).unwrap();
    assert_eq!((archive.keys, archive.revision, archive.epoch), (2, before, 0));
    assert_eq!(archive.cluster, "tests");
    let later = server.put("c").await;
    drop(embedded);
    server.end().await;
    inspected(&folder, &keys).await;

    let other = restore(&folder.0, &keys, Whose { cluster: "other", ..WHOSE }, &archive).unwrap_err();
    assert!(other.to_string().contains("mesh `tests`"), "{other}");
    let renewed = restore(&folder.0, &keys, WHOSE, &archive).unwrap();
    assert_eq!((renewed.epoch, renewed.keys), (1, 2));
    assert!(renewed.revision > later && renewed.kept.is_some());
    let server = Server::start(&folder, &keys).await;
    assert!(server.has("a").await && server.has("b").await && !server.has("c").await);
    server.end().await;

    // And on a disk that never had a log.
    let fresh = Folder::new("restored-fresh");
    assert!(!has_log(&fresh.0).unwrap());
    let renewed = restore(&fresh.0, &keys, WHOSE, &archive).unwrap();
    assert_eq!((renewed.epoch, renewed.kept), (1, None));
    let server = Server::start(&fresh, &keys).await;
    assert!(server.has("b").await);
    server.end().await;
}

#[test]
fn what_is_no_whole_copy_is_refused() {
    let last = serde_json::from_value(serde_json::json!({
        "leader_id": { "term": 3, "node_id": 1 },
        "index": 7,
    }));
    let head =
        Head { cluster: "tests".to_owned(), store: StoreId(7 << 16), last: last.unwrap(), taken_ms: 1 };
    let bytes = written(&head, &Kv::default());
    let archive = Archive::read(&bytes).unwrap();
    assert_eq!((archive.last_term, archive.last_index, archive.keys), (3, 7, 0));
    for length in 0..bytes.len() {
        assert!(Archive::read(&bytes[..length]).is_err(), "{length} bytes of it");
    }
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        assert!(Archive::read(&flipped).is_err(), "byte {at}");
    }
    assert_eq!(Archive::read(b"PK\x03\x04").unwrap_err(), ArchiveError::Foreign);
    // Whole, and no state.
    let mut odd = MAGIC.to_vec();
    odd.extend_from_slice(&[0xff; 40]);
    let end = digest(&odd);
    odd.extend_from_slice(end.as_bytes());
    assert!(matches!(Archive::read(&odd), Err(ArchiveError::Contradiction(_))));
}
