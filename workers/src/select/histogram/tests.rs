use super::*;

#[test]
fn a_column_of_ids_is_no_quota() {
    assert!(check_number_of_groups(GROUPS_MAX).is_ok());
    let failure = check_number_of_groups(GROUPS_MAX + 1).unwrap_err();
    assert!(failure.to_string().contains("group_by"), "{failure}");
}
