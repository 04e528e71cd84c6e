// SPDX-License-Identifier: GPL-2.0
//~ E0505: nobody looks at the data while it is filled in
fn fill(bio: Owned) {
    let old = bio.data();
    let len = old.as_ref().map(Data::len); //~ good
    let filled = bio.fill(); //~ bad
    let len = old.as_ref().map(Data::len); //~ bad
}
