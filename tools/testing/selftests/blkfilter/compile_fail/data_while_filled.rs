// SPDX-License-Identifier: GPL-2.0
//~ E0502: nobody looks at the data while it is filled in
fn fill(mut bio: Owned) {
    let old = bio.data();
    let len = old.as_ref().map(Data::len); //~ good
    let new = bio.data_mut(); //~ bad
    let len = old.as_ref().map(Data::len); //~ bad
}
