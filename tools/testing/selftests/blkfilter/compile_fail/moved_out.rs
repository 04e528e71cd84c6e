// SPDX-License-Identifier: GPL-2.0
//~ E0507: a bio does not lose its duty
fn steal(bio: Owned) {
    let view: FilteredBio = *bio; //~ bad
    let view: &FilteredBio = &bio; //~ good
}
