// SPDX-License-Identifier: GPL-2.0
//~ E0594: a bio is not assigned to
fn change(mut a: Owned, b: FilteredBio) {
    *a = b; //~ bad
}
