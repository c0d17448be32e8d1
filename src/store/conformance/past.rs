//! What every store that looks back does.

use super::{Whole, op, put, revision};
use crate::store::{
    Historical, Scan, StoreError,
    core::{
        command::MAX_VALUE,
        key::{Key, Revision},
    },
};

pub(in crate::store) async fn the_past_is_as_it_was(store: &(impl Whole + Historical)) {
    let first = put(store, "h/a", "1").await;
    put(store, "h/b", "1").await;
    let then = put(store, "h/a", "2").await;
    store.delete(op(), Key::new("h/b").unwrap()).await.unwrap();
    let now = revision(store).await;
    let scan = Scan { prefix: "h/".to_owned(), after: None, limit: 10 };
    for (at, expected) in [(first, "a=1"), (then, "a=2 b=1"), (now, "a=2"), (Revision(0), "")] {
        let page = store.scan_at(at, &scan).await.unwrap();
        let shown = page
            .entries
            .iter()
            .map(|(key, has)| format!("{}={}", &key.as_str()[2..], std::str::from_utf8(&has.value).unwrap()));
        assert_eq!(shown.collect::<Vec<_>>().join(" "), expected, "at {at}");
        assert_eq!(page.revision, at);
    }
    let (changes, to) = store.changes("h/", first).await.unwrap();
    assert_eq!((changes.len(), to), (3, now), "{changes:?}");
    assert_eq!(store.changes("h/", now).await.unwrap(), (Vec::new(), now));
    let (of_first, of_last) = (store.changes("h/", Revision(0)).await.unwrap().0[0].at_ms, changes[2].at_ms);
    assert_eq!(store.revision_at(of_last).await.unwrap(), now);
    assert_eq!(store.revision_at(u64::MAX).await.unwrap(), now);
    assert_eq!(store.revision_at(of_first - 1).await.unwrap(), Revision(0));
}

pub(in crate::store) async fn what_is_forgotten_is_not_looked_back_to(store: &(impl Whole + Historical)) {
    let value = "v".repeat(MAX_VALUE);
    for _ in 0..40 {
        put(store, "large", &value).await;
    }
    let scan = Scan::default();
    let compacted = |error: StoreError| match error {
        StoreError::Compacted { oldest } => oldest,
        other => panic!("{other:?}"),
    };
    let oldest = compacted(store.scan_at(Revision(0), &scan).await.unwrap_err());
    assert!(oldest > Revision(1), "{oldest}");
    assert_eq!(compacted(store.changes("", Revision(0)).await.unwrap_err()), oldest);
    assert_eq!(compacted(store.revision_at(1).await.unwrap_err()), oldest);
    assert!(store.scan_at(Revision(oldest.0 - 1), &scan).await.is_ok());
}
