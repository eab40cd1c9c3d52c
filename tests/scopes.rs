//! The documented scopes, and the narrowing rule for undocumented ones.

mod common;

use hubhooks::scope;
use proptest::prelude::*;

#[test]
fn table() {
    let keys = ["scope", "action", "effective", "is_known", "nearest"];
    common::each_row("scopes", &keys, |row| {
        let scope = row.str("scope");
        if row.has("nearest") {
            assert_eq!(scope::nearest(scope), row.get("nearest").as_str());
            return;
        }
        let action = row.str("action");
        let (effective_scope, effective_action) = scope::narrow(scope, action);
        assert_eq!(
            vec![effective_scope, effective_action],
            row.strings("effective")
        );
        assert_eq!(scope::is_known(scope, action), row.get("is_known") == true);
    });
}

proptest! {
    #[test]
    fn nearest_takes_any_text(text in any::<String>()) {
        let nearest = scope::nearest(&text);
        prop_assert!(nearest.is_none_or(scope::is_documented));
    }

    #[test]
    fn narrowing_ends_at_a_documented_scope(scope in "[a-z.]{0,12}|repo[.a-z]{0,9}|discussion[.a-z]{0,9}", action in "[a-z]{1,6}") {
        let narrowed = scope::narrow(&scope, &action);
        prop_assert!(narrowed == (&*scope, &*action) || scope::is_documented(narrowed.0));
        prop_assert_eq!(scope::narrow(narrowed.0, narrowed.1), narrowed);
    }
}
