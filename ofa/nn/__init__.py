"""Elastic layers: a narrower layer as a view of a wider one.

Every function here changes a *clone* (:func:`~ofa.nn.structure.clone_structure`) of timm's own layer in place, so that
its parameters become slices of the shared ones. Such a clone is an ordinary torch module: running it trains the
shared weights, copying its tensors extracts it.
"""
