// SPDX-License-Identifier: GPL-2.0
//~ E0596: two bios are not swapped
fn swap(mut a: Owned, mut b: Owned) {
    let view: &mut FilteredBio = &mut *a; //~ bad
    let view: &FilteredBio = &*a; //~ good
}
