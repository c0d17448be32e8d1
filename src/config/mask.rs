//! Takes secrets out of the effective configuration before anybody sees it.

use serde_json::Value;

/// What is shown instead of a secret.
const MASK: &str = "***";

/// Masks the value that `pointer` stands for, and what was taken over from it.
pub(super) fn value_at(document: &mut Value, pointer: &str) {
    // What `defaults` says stands in every route and service.
    if let Some(key) = pointer.strip_prefix("/defaults/") {
        for list in ["routes", "services"] {
            let indices: Vec<String> = match document.get(list) {
                Some(Value::Array(items)) => (0..items.len()).map(|index| index.to_string()).collect(),
                Some(Value::Object(items)) => items.keys().map(|name| name.replace('~', "~0")).collect(),
                _ => Vec::new(),
            };
            for index in indices {
                mask_at(document, &format!("/{list}/{index}/{key}"));
            }
        }
        mask_at(document, &format!("/service/{key}"));
        mask_at(document, pointer);
        return;
    }
    // Names of headers are shown in lower case. Where the shape differs, more is masked rather than less.
    let mut pointer = pointer;
    while !mask_at(document, pointer) && !mask_at(document, &pointer.to_lowercase()) {
        match pointer.rsplit_once('/') {
            Some((parent, _)) if !parent.is_empty() => pointer = parent,
            _ => return,
        }
    }
}

/// Masks what stands at `pointer`, if anything does.
pub(super) fn value(document: &mut Value, pointer: &str) {
    mask_at(document, pointer);
}

fn mask_at(document: &mut Value, pointer: &str) -> bool {
    let place = document.pointer_mut(pointer);
    place.is_some_and(|place| {
        *place = Value::from(MASK);
        true
    })
}

/// Masks the values of headers that usually carry secrets, also when they are written down in the file.
pub(super) fn secret_headers(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if matches!(key.as_str(), "set" | "add" | "headers") {
                    mask_secret_names(value);
                }
                secret_headers(value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(secret_headers),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn mask_secret_names(headers: &mut Value) {
    let Value::Object(headers) = headers else { return };
    for (name, value) in headers.iter_mut().filter(|(_, value)| value.is_string()) {
        let secret = ["authorization", "cookie", "key", "token", "secret", "password"];
        if secret.iter().any(|word| name.contains(word)) {
            *value = Value::from(MASK);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_be_found_masks_what_it_is_part_of() {
        let mut document = json!({ "services": { "api": { "endpoints": ["10.0.0.1:1", "10.0.0.2:1"] } } });
        value_at(&mut document, "/services/api/endpoints/0/address");
        assert_eq!(document, json!({ "services": { "api": { "endpoints": [MASK, "10.0.0.2:1"] } } }));
    }

    #[test]
    fn what_defaults_say_is_masked_wherever_it_is_taken_over() {
        let mut document =
            json!({ "routes": [{ "timeout": "1s" }], "service": { "timeout": "1s", "name": "web" } });
        value_at(&mut document, "/defaults/timeout");
        let masked =
            json!({ "routes": [{ "timeout": MASK }], "service": { "timeout": MASK, "name": "web" } });
        assert_eq!(document, masked);
    }

    #[test]
    fn headers_that_carry_secrets_are_masked_by_their_names() {
        let mut document =
            json!({ "set": { "authorization": "Bearer x", "x-api-key": "y", "x-env": "prod" } });
        secret_headers(&mut document);
        assert_eq!(document, json!({ "set": { "authorization": MASK, "x-api-key": MASK, "x-env": "prod" } }));
    }
}
