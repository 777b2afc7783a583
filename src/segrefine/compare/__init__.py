"""Finished runs compared: tables, paired statistics, plots and a page. Reads run folders, knows no network.

`variants` groups runs; `scores` and `statistics` say what differs by more than noise; `tables`, `plots`, `pictures` and
`page` show it; `report` puts them together; `claims` and `costs` do so for the experiments of this project.
"""
