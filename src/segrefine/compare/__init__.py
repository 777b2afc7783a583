"""Finished runs compared: tables, paired statistics, plots and a page. Reads run folders, knows no network.

`runs` reads the folders and groups them into variants; `scores` and `statistics` say what differs by more than noise;
`tables`, `plots` and `page` show it; `report` puts them together; `claims` does so for the experiments of this project.
"""
